"""A person acts on runs: each action asks first."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from playwright.sync_api import Locator, Page, expect

from celery_steps import Runs
from delivering import deliver, published

TICKET = {"headers": {"steps_ticket": True}}


def sure(page: Page, question: str) -> None:
    """Answers yes to the question."""
    expect(page.get_by_role("dialog")).to_contain_text(question)
    page.get_by_role("dialog").get_by_role("button", name="Yes").click()


def said(page: Page) -> Locator:
    return page.locator(".said")


def step(page: Page, key: str) -> Locator:
    """A step's details, opened."""
    found = page.locator("details.step").filter(has=page.get_by_role("heading", name=key, exact=True))
    found.locator("summary").click()
    return found


def test_nothing_is_done_until_the_question_is_answered_with_yes(page: Page, runs: Runs, order: Any) -> None:
    deliver(order, "wait", id="unsure")
    page.goto("/run/unsure")
    for leave in ("No, go back", "Escape"):
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_contain_text("Cancel this run?")
        if leave == "Escape":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name=leave).click()
        expect(page.get_by_role("dialog")).to_have_count(0)
    deliver(order, "wait", id="unsure", **TICKET)
    assert runs.get("unsure").status == "suspended"


def test_a_run_is_paused_unpaused_and_cancelled(page: Page, runs: Runs, order: Any) -> None:
    deliver(order, "wait", id="acted")
    page.goto("/run/acted")
    page.get_by_role("button", name="Pause", exact=True).click()
    sure(page, "Pause this run?")
    expect(said(page)).to_contain_text("start no further step")
    expect(page.locator("#status")).to_have_text("paused")
    page.get_by_role("button", name="Unpause").click()
    sure(page, "carry on?")
    expect(said(page)).to_contain_text("It carries on.")
    page.get_by_role("button", name="Cancel").click()
    sure(page, "Cancel this run?")
    expect(said(page)).to_contain_text("Asked to end as cancelled")
    deliver(order, "wait", id="acted", **TICKET)
    expect(page.locator("#status")).to_have_text("cancelled")


def test_a_failed_run_is_retried_from_a_step(page: Page, app: Celery, runs: Runs, order: Any) -> None:
    deliver(order, "no stock", id="retried")
    published(app)
    page.goto("/run/retried")
    step(page, "check stock").get_by_role("button", name="Retry from here").click()
    sure(page, "begin again from this step?")
    expect(said(page)).to_contain_text("It begins again")
    assert [record.key for record in runs.records("retried")] == ["price"]
    assert [message.headers["id"] for message in published(app)] == ["retried"]


def test_a_copy_is_made_from_a_step_and_led_to(page: Page, app: Celery, runs: Runs, order: Any) -> None:
    deliver(order, id="original")
    published(app)
    page.goto("/run/original")
    step(page, "ship").get_by_role("button", name="Fork from here").click()
    sure(page, "with what was recorded before this step?")
    expect(said(page)).to_contain_text("Its copy is on its way")
    (message,) = published(app)
    copy = message.headers["id"]
    deliver(order, id=copy, headers=message.headers)
    said(page).get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(copy)
    assert runs.get(copy).status == "succeeded"


def test_a_yes_counts_also_if_the_run_went_on_while_the_question_was_open(page: Page, app: Celery, order: Any) -> None:
    deliver(order, "wait", id="asked")
    page.goto("/run/asked")
    expect(page.locator("#live")).to_have_text("live")
    step(page, "price").get_by_role("button", name="Fork from here").click()
    with page.expect_response("**/run/asked"):  # the page is asked for again
        Runs(app).emit("order.approved", True, to="asked")
        deliver(order, "wait", id="asked", **TICKET)
    published(app)
    sure(page, "with what was recorded before this step?")
    expect(said(page)).to_contain_text("Its copy is on its way")
    assert len(published(app)) == 1
    expect(page.locator("#status")).to_have_text("succeeded")


def test_after_a_no_the_page_shows_what_has_changed_meanwhile(page: Page, app: Celery, order: Any) -> None:
    deliver(order, "wait", id="left")
    page.goto("/run/left")
    expect(page.locator("#live")).to_have_text("live")
    page.get_by_role("button", name="Cancel").click()
    with page.expect_response("**/run/left"):
        Runs(app).emit("order.approved", True, to="left")
        deliver(order, "wait", id="left", **TICKET)
    page.get_by_role("dialog").get_by_role("button", name="No, go back").click()
    expect(page.locator("#status")).to_have_text("succeeded")


@pytest.mark.parametrize("how", ["done", "failed", "rerun"])
def test_a_doubt_is_resolved(page: Page, runs: Runs, pay: Any, how: str) -> None:
    id = f"doubt-{how}"
    deliver(pay, id=id)
    page.goto(f"/run/{id}")
    expect(page.locator("#answers")).to_contain_text("What became of charge?")
    if how == "done":
        page.get_by_label("Result, as JSON").fill('{"charge": "ch_1"}')
        page.get_by_role("button", name="It had its effect").click()
        sure(page, "Record this result?")
    elif how == "failed":
        page.get_by_label("Error").fill("declined")
        page.get_by_role("button", name="It failed").click()
        sure(page, "Record that it failed?")
    else:
        page.get_by_role("button", name="It had no effect: run it again").click()
        sure(page, "it has it twice")
    expect(said(page)).to_contain_text("Resolved: it carries on.")
    deliver(pay, id=id, **TICKET)
    expect(page.locator("#status")).to_have_text("failed" if how == "failed" else "succeeded")
    (record,) = runs.records(id)
    assert record.result == {"done": {"charge": "ch_1"}, "failed": None, "rerun": "charged"}[how]


def test_an_event_is_sent_and_what_is_no_json_is_refused(page: Page, runs: Runs, order: Any) -> None:
    deliver(order, "wait", id="told")
    page.goto("/run/told")
    page.get_by_text("Send it an event").click()
    assert page.get_by_label("Event", exact=True).input_value() == "order.approved"
    for data, answer in (("by ann", "The event's data must be JSON"), ('{"by": "ann"}', "Sent: it reached 1 wait or task.")):
        if not page.get_by_label("Data, as JSON").is_visible():
            page.get_by_text("Send it an event").click()
        page.get_by_label("Data, as JSON").fill(data)
        page.get_by_role("button", name="Send").click()
        sure(page, "Send this event?")
        expect(said(page)).to_contain_text(answer)
    deliver(order, "wait", id="told", **TICKET)
    expect(page.locator("#status")).to_have_text("succeeded")
    assert {record.key: record.result for record in runs.records("told")}["approved"] == {"by": "ann"}


def test_an_action_that_comes_too_late_is_refused_in_words(page: Page, order: Any) -> None:
    deliver(order, "wait", id="late")
    page.goto("/run/late")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    Runs(order.app).emit("order.approved", True, to="late")
    deliver(order, "wait", id="late", **TICKET)
    sure(page, "Cancel this run?")
    expect(said(page)).to_have_attribute("role", "alert")
    expect(said(page)).to_contain_text("succeeded")
