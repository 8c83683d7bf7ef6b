"""What a run's page shows of it, made from what `Runs` says."""

from __future__ import annotations

import re
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from runs.outside import crash
from starlette.testclient import TestClient

from celery_steps import DurableTask, Runs
from celery_steps.web import create_app, run_page
from celery_steps.web.run_page import RunView, view_of
from delivering import deliver
from web.story import Story, order


def view(story: Story, status: str = "running", **asked: str) -> RunView:
    run, records, timeline = story.seen(status, 0)
    return view_of(run, records, [], timeline, asked)


def begun() -> Story:
    story = Story()
    story.attempt(0)
    return story


# -- steps --------------------------------------------------------------------------------------------------------------


def test_a_step_keeps_its_place_in_the_page_when_a_wait_becomes_a_result() -> None:
    story = begun().done("load", 0, 9, 1)
    story.wait("approved", "wait_for_event", began=9)
    story.suspend()
    (_, waiting) = view(story, "suspended").steps.shown
    story.attempt(500)
    story.done("approved", 510, 510, {"by": "ann"}, verb="wait_for_event")
    (_, done) = view(story).steps.shown
    assert (waiting.state, done.state) == ("waiting", "done")
    assert waiting.anchor == done.anchor


def test_each_try_of_a_step_has_a_place_of_its_own() -> None:
    steps = view_of(*order()[:2], [], order()[2], {}).steps.shown
    assert len({step.anchor for step in steps}) == len(steps)
    assert [step.state for step in steps if step.record.key == "charge card"] == ["interrupted", "done"]
    assert steps[-1].state == "running"


def test_an_outcome_is_shown_in_a_line() -> None:
    glances = {step.record.key: step.glance for step in view_of(*order()[:2], [], order()[2], {}).steps.shown}
    assert glances["screen for fraud"] == '{ "score": 0.07, "verdict": "clear" }'
    assert glances["book courier"] == "ConnectionError: gateway did not answer within 5 s"
    assert glances["cool-off"] == ""
    assert len(glances["load order"]) <= 91


def test_a_failure_has_the_traceback_that_was_recorded() -> None:
    (failed,) = [step for step in view_of(*order()[:2], [], order()[2], {}).steps.shown if step.failure]
    assert failed.failure is not None
    assert failed.failure.kind == "ConnectionError"
    assert failed.failure.traceback is not None
    assert failed.failure.traceback.text.startswith("Traceback (most recent call last):")
    assert failed.failure.traceback.text.endswith("gateway did not answer within 5 s")


def test_a_long_value_is_cut_and_whole_on_a_page_of_its_own() -> None:
    story = begun().done("load", 0, 9, "x" * 5000).done("ship", 10, 20, 1)
    step = view(story).steps.shown[0]
    assert step.result is not None
    assert (step.result.cut, len(step.result.text), step.result.size) == (True, 2000, 5002)
    alone = view(story, step=step.anchor)
    assert alone.one
    assert [shown.record.key for shown in alone.steps.shown] == ["load"]
    assert alone.steps.shown[0].result is not None
    assert not alone.steps.shown[0].result.cut


def test_a_value_of_many_lines_is_cut_too() -> None:
    assert run_page.value_text(list(range(500))).text.count("\n") == 39


def test_a_traceback_is_cut_at_its_beginning() -> None:
    error = ValueError("no")
    error.__cause__ = ValueError("\n".join(f"line {n}" for n in range(100)))
    failure = run_page.failure_of(error, whole=False)
    assert failure.traceback is not None
    assert failure.traceback.text.startswith("line 60\n")
    assert failure.traceback.text.endswith("line 99")


def test_a_step_that_is_not_there_is_shown_as_none() -> None:
    assert view(begun().done("load", 0, 9, 1), step="step-0").steps.shown == ()


def test_many_steps_are_shown_in_pages() -> None:
    story = begun()
    for n in range(450):
        story.done(f"step {n}", n, n, n)

    def shown(**asked: str) -> tuple[str, str, int | None, int | None]:
        many = view(story, **asked).steps
        return many.shown[0].record.key, many.shown[-1].record.key, many.earlier, many.later

    assert shown() == ("step 0", "step 199", None, 200)
    assert shown(first="200") == ("step 200", "step 399", 0, 400)
    assert shown(first="-1") == ("step 400", "step 449", 200, None)
    assert shown(first="9999") == ("step 400", "step 449", 200, None)
    assert shown(first="x") == shown()
    assert shown(first="-3") == shown()


def test_a_node_leads_to_its_step_on_this_page_or_on_one_of_its_own() -> None:
    story = begun()
    for n in range(250):
        story.done(f"step {n}", n, n, n)
    many = view(story)
    assert many.flow is not None
    first, *_, last = many.flow.nodes
    assert many.href(first) == f"#{many.steps.shown[0].anchor}"
    assert many.href(last) == f"?step={run_page.anchor_of('step 249', 1)}"


# -- the page -----------------------------------------------------------------------------------------------------------


def page(console: TestClient, name: str) -> str:
    answer = console.get(f"/run/{name}")
    assert answer.status_code == 200
    return answer.text


def labels(page: str) -> set[str]:
    return set(re.findall(r"<button[^>]*>([^<]*)</button>\s*</form>", page)) - {"Yes"}


def test_a_run_that_waits_says_for_what(console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="id-1")
    text = page(console, "id-1")
    assert "for the event <code>approved</code>, without a deadline" in text
    assert 'name="event" required maxlength="512" autocomplete="off" id="emit-event" value="approved"' in text
    assert labels(text) == {"Pause", "Fork", "Cancel", "Send", "Fork from here"}


def test_a_failed_run_shows_its_error_and_can_be_retried_from_each_step(console: TestClient, order: Any) -> None:
    deliver(order, "book", "no card", id="id-1")
    text = page(console, "id-1")
    assert "<b>ValueError</b>: no card" in text
    assert "raise ValueError(end)" in text
    assert labels(text) == {"Retry", "Fork", "Retry from here", "Fork from here"}


def test_a_finished_run_has_steps_with_input_result_and_log(console: TestClient, order: Any) -> None:
    deliver(order, id="id-1")
    text = page(console, "id-1")
    for shown in ("<h4>Result</h4>", "<h4>Input</h4>", "&#34;cents&#34;: 500", "priced", "cents=500", "v1:sha256:"):
        assert shown in text
    assert labels(text) == {"Fork", "Fork from here"}


def test_a_read_only_console_has_no_action(app: Celery, order: Any) -> None:
    deliver(order, "book", "no card", id="id-1")
    looking = TestClient(create_app(app, read_only=True), base_url="http://localhost")
    assert "<form" not in page(looking, "id-1").replace('<form method="dialog">', "")


def test_a_run_whose_worker_was_lost_says_so(app: Celery, console: TestClient, order: Any) -> None:
    crash(app, order, "id-1")
    deliver(order, "book", "wait", id="id-1", redelivered=True)
    text = page(console, "id-1")
    assert "crashed" in text
    assert "1 ✕" in text


def test_a_step_in_doubt_can_be_resolved_in_three_ways(app: Celery, console: TestClient) -> None:
    def stopped() -> None:
        raise SoftTimeLimitExceeded

    @app.task(bind=True, base=DurableTask, name="shop.pay")
    def pay(self: DurableTask) -> Any:
        return self.step.run("charge", stopped, at_most_once=True)

    deliver(pay, id="id-1")
    assert Runs(app).get("id-1").status == "in_doubt"
    text = page(console, "id-1")
    assert "What became of <b>charge</b>?" in text
    assert {"It had its effect", "It failed", "It had no effect: run it again"} <= labels(text)


def test_what_another_run_recorded_here_leads_to_it_and_cannot_be_retried(console: TestClient, order: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(order, "book", "no card", id=id, headers={"steps_namespace": "order-42"})
    text = page(console, "id-2")
    assert 'Recorded by</dt><dd><a href="/run/id-1"' in text
    assert "Retry from here" not in text
    assert "Fork from here" in text
    assert "Retry from here" in page(console, "id-1")


def test_the_three_views_stand_below_each_other_without_scripts(console: TestClient, order: Any) -> None:
    deliver(order, id="id-1")
    text = page(console, "id-1")
    assert re.findall(r'<section id="(\w+)" class="view"', text) == ["list", "graph", "timeline"]
    assert "style=" not in text
    assert [place for place in ('href="#list"', 'href="#graph"', 'href="#timeline"') if place not in text] == []


def test_no_id_of_a_page_is_there_twice(console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="id-1")
    found = re.findall(r' id="([^"]*)"', page(console, "id-1"))
    assert sorted(set(found)) == sorted(found)
