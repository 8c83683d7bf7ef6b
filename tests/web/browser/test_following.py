"""A run goes on while a person looks at it, and what a keyboard alone can do."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from celery_steps import Runs
from delivering import deliver

TICKET = {"headers": {"steps_ticket": True}}


def go_on(order: Any, id: str) -> None:
    Runs(order.app).emit("order.approved", {"by": "ann"}, to=id)
    deliver(order, "wait", id=id, **TICKET)


def is_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_text("live")


def test_what_is_new_is_shown_at_once_and_what_is_open_stays_open(page: Page, order: Any) -> None:
    deliver(order, "wait", id="seen")
    page.goto("/run/seen")
    is_live(page)
    page.evaluate("document.mark = 'this very page'")
    waiting = page.locator("details.step").last
    waiting.locator("summary").click()
    expect(waiting).to_contain_text("Waits for order.approved")
    page.get_by_text("Send it an event").click()
    page.get_by_label("Data, as JSON").fill('{"half": "typ')
    waiting.locator("summary").focus()
    go_on(order, "seen")
    expect(page.locator("#status")).to_have_text("succeeded")
    approved = page.locator("details.step").nth(3)
    expect(approved).to_have_attribute("open", "")
    expect(approved).to_contain_text('"by": "ann"')
    expect(approved.locator("summary")).to_be_focused()
    expect(page.locator("details.step")).to_have_count(5)
    expect(page.locator("#news")).to_have_text("The run is succeeded now.")
    assert page.evaluate("document.mark") == "this very page"


def test_the_view_that_was_chosen_stays_and_is_drawn_anew(page: Page, order: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 400})
    deliver(order, "wait", id="drawn")
    page.goto("/run/drawn#graph")
    is_live(page)
    page.get_by_role("link", name="approved: wait_for_event order.approved, waiting").focus()
    page.evaluate("document.querySelector('#graph .scroll').scrollLeft = 20; scrollTo(0, 150)")
    go_on(order, "drawn")
    expect(page.locator("#graph .key")).to_have_text(["price", "check stock", "check credit", "approved", "ship"])
    expect(page.locator(".view:visible")).to_have_id("graph")
    expect(page.get_by_role("link", name="approved: wait_for_event order.approved, done")).to_be_focused()
    assert page.evaluate("scrollY") == 150
    page.get_by_role("link", name="Timeline", exact=True).click()
    expect(page.locator("#timeline .name")).to_have_text(["price", "check stock", "check credit", "approved", "ship"])


def test_the_list_changes_in_place(page: Page, order: Any) -> None:
    deliver(order, "wait", id="listed")
    page.goto("/?q=liste")
    is_live(page)
    row = page.locator("#runs tr").filter(has_text="listed")
    expect(row).to_contain_text("suspended")
    go_on(order, "listed")
    expect(row).to_contain_text("succeeded")


def test_a_keyboard_is_enough(page: Page, order: Any, runs: Runs) -> None:
    deliver(order, "wait", id="keys")
    page.goto("/run/keys")
    is_live(page)
    press = page.keyboard.press

    def until(selector: str) -> None:
        """Tab to an element, as far as the page goes."""
        for _ in range(60):
            press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                # A node of the graph shows its focus by its frame.
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none" or selector == "#graph a"
                return
        raise AssertionError(f"{selector} is not reached")

    until(".skip")
    press("Enter")
    until("#to-graph")
    press("Enter")
    expect(page.locator(".view:visible")).to_have_id("graph")
    until("#graph a")
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowUp")
    press("Enter")
    step = page.locator("details.step").nth(1)
    expect(step).to_have_attribute("open", "")
    expect(step.locator("summary")).to_be_focused()
    press("Enter")
    assert step.get_attribute("open") is None
    page.goto("/run/keys")
    until("#actions button.danger")
    press("Enter")
    expect(page.get_by_role("button", name="No, go back")).to_be_focused()
    press("Escape")
    expect(page.locator("#actions button.danger")).to_be_focused()
    press("Enter")
    press("Tab")
    press("Enter")
    expect(page.locator(".said")).to_contain_text("Asked to end as cancelled")


def test_the_tab_key_leads_through_a_page_and_out_of_it(page: Page, order: Any) -> None:
    deliver(order, "wait", id="through")
    for path, view in (("/", ""), ("/run/through", "List"), ("/run/through", "Graph"), ("/run/through", "Timeline")):
        page.goto(path)
        if view:
            page.get_by_role("link", name=view, exact=True).click()
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        met = []
        for _ in range(150):
            page.keyboard.press("Tab")
            where = page.evaluate(
                "document.activeElement === document.body ? '' : document.activeElement.outerHTML.slice(0, 150)"
            )
            if where in ("", *met[:1]):
                break
            met.append(where)
        else:
            raise AssertionError(f"{path} has no end")
        assert len(met) >= 4
