"""`crash_everywhere`: a crash and a duplicate delivery at every boundary, and what it finds."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, Runs, StepsError
from celery_steps.engine import standing
from celery_steps.testing import Steps, crash_everywhere


@pytest.fixture(autouse=True)
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", pytest.fail)


def durable(app: Celery, body: Any, **options: Any) -> Any:
    return app.task(bind=True, base=DurableTask, name="shop.task", **options)(body)


# -- what holds ---------------------------------------------------------------------------------------------------------


def test_every_boundary_is_tried_and_each_run_comes_to_the_same_end(app: Celery) -> None:
    def body(self: DurableTask, cents: int) -> str:
        receipt = self.step.run("charge", cents, lambda cents: f"r-{cents}")
        self.step.sleep("cool-off", "1h")
        return receipt

    report = crash_everywhere(durable(app, body), 5)
    assert (report.result, report.error) == ("r-5", None)
    assert report.boundaries == (
        "before claim",
        "after claim, before the handler of 'charge'",
        "after the handler of 'charge', before commit",
        "after commit, before suspend",
        "after suspend",
        "before claim",
        "after claim, before commit",
        "after commit, before finish",
        "after finish, before settle",
        "after settle",
    )
    assert report.crashes == report.duplicates == len(report.boundaries)
    assert report.calls == {("charge", 1): 2}, "a crash between a handler and its record repeats it"


def test_events_and_children_are_the_same_too(app: Celery) -> None:
    @app.task
    def child(number: int) -> int:
        return number + 1

    def body(self: DurableTask) -> int:
        self.step.emit("tell", "approved", {"cents": 6}, to="archive")
        return self.step.run_task("child", child, (6,))

    assert crash_everywhere(durable(app, body)).result == 7


def test_branches_and_caught_failures_are_the_same_too(app: Celery) -> None:
    def fails() -> None:
        raise ConnectionError("no line")

    def body(self: DurableTask) -> list[int]:
        with self.step.parallel(max_workers=2) as p:
            found = p.map("look", [1, 2], lambda number: number * 10)
        try:
            self.step.run("call", fails)
        except ConnectionError:
            return [one.result() for one in found]
        return []

    assert crash_everywhere(durable(app, body)).result == [10, 20]


def test_a_run_that_fails_and_is_rolled_back_fails_everywhere(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        self.step.run("book", lambda: "LH 1", rollback=lambda flight: None)
        raise LookupError("no hotel")

    report = crash_everywhere(durable(app, body))
    assert (report.result, repr(report.error)) == (None, "LookupError('no hotel')")


def test_a_step_at_most_once_is_called_once_and_its_doubt_is_resolved_by_who_knows(app: Celery) -> None:
    def body(self: DurableTask) -> str:
        return self.step.run("pay", lambda: "paid", at_most_once=True)

    report = crash_everywhere(durable(app, body))
    assert (report.result, report.calls) == ("paid", {("pay", 1): 1})


# -- what it finds ------------------------------------------------------------------------------------------------------


def test_a_body_whose_way_differs_from_replay_to_replay_is_found(app: Celery) -> None:
    attempts = []

    def body(self: DurableTask) -> None:
        attempts.append(1)
        self.step.run("first", lambda: 1)
        self.step.run("second", len(attempts) % 7, lambda number: None)

    with pytest.raises(AssertionError, match=r"Two undisturbed runs differ(.|\n)*step 'second' recorded .*, undisturbed"):
        crash_everywhere(durable(app, body))


def test_an_input_that_another_attempt_makes_anew_is_found(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        self.step.run("first", self.step.attempt, lambda attempt: None)

    with pytest.raises(AssertionError, match=r"With a crash after claim, before the handler of 'first':\n- step 'first'"):
        crash_everywhere(durable(app, body))


def test_a_run_that_differs_from_its_own_records_is_found_undisturbed(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        self.step.run("first", self.step.attempt, lambda attempt: None)
        self.step.sleep("a-while", "1h")

    with pytest.raises(AssertionError, match=r"Undisturbed, .* from its own records: Step 'first' \(occurrence 1\)"):
        crash_everywhere(durable(app, body))


def test_a_step_that_only_some_replays_come_by_is_found(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        if not self.step.resumed:
            self.step.run("welcome", lambda: "hello")
        self.step.run("work", lambda: 1)

    with pytest.raises(AssertionError, match=r"With a crash .*\n- step 'welcome' recorded nothing, undisturbed"):
        crash_everywhere(durable(app, body))


def test_a_handler_whose_result_is_another_each_time_is_to_be_stubbed(steps: Steps, app: Celery) -> None:
    def body(self: DurableTask) -> float:
        return self.step.run("draw", random.SystemRandom().random)

    task = durable(app, body)
    with pytest.raises(AssertionError, match=r"stub it: steps.stub\(key, value\)(.|\n)*step 'draw' recorded"):
        steps.crash_everywhere(task)
    steps.stub("draw", 0.5)
    assert steps.crash_everywhere(task).result == 0.5


def test_a_task_sent_outside_a_step_is_found(app: Celery) -> None:
    @app.task(name="mails.send")
    def mail(to: str) -> None: ...

    def body(self: DurableTask) -> None:
        mail.delay("ann")
        self.step.run("work", lambda: 1)

    with pytest.raises(AssertionError, match=r"task mails.send.*'ann'.* was sent twice, undisturbed once: send it in a step"):
        crash_everywhere(durable(app, body))


def test_an_event_sent_outside_a_step_is_found(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        Runs(app).emit("paid", 5, to="archive")
        self.step.run("work", lambda: 1)

    with pytest.raises(AssertionError, match=r"event paid .* was sent twice, undisturbed once"):
        crash_everywhere(durable(app, body))


def test_an_effect_outside_the_steps_is_found_with_its_line(app: Celery, tmp_path: Path) -> None:
    def body(self: DurableTask) -> None:
        self.step.run("fine", lambda: (tmp_path / "fine").write_text("in a step") and None)
        (tmp_path / "log").write_text("outside")

    line = body.__code__.co_firstlineno + 2
    with pytest.raises(
        AssertionError, match=rf"effects outside its steps.*open\(.*log.*test_crash_everywhere.py:{line}"
    ) as caught:
        crash_everywhere(durable(app, body))
    assert "fine" not in str(caught.value)


def test_a_record_that_would_be_written_twice_is_found(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(standing._READERS, "step", lambda self, entry: None)  # an engine that forgets

    def body(self: DurableTask) -> None:
        self.step.run("work", lambda: 1)

    with pytest.raises(AssertionError, match="With a crash after commit, before finish:\n- 'work' is recorded twice"):
        crash_everywhere(durable(app, body))


def test_an_attempt_that_is_gone_writes_nothing_more(steps: Steps, app: Celery) -> None:
    caught = []

    def body(self: DurableTask) -> str:
        try:
            return self.step.run("work", lambda: "done")
        except BaseException as crash:  # nobody should; a process that is gone could not
            caught.append(type(crash).__name__)
            self.step.run("clean-up", lambda: None)
            raise

    report = steps.crash_everywhere(durable(app, body))
    assert "Crash" in caught
    assert ("clean-up", 1) not in report.calls


def test_a_run_that_waits_for_ever_says_how_it_gets_what_it_awaits(app: Celery) -> None:
    def body(self: DurableTask) -> None:
        self.step.wait_for_event("approval")

    with pytest.raises(StepsError, match=r"the run does not end: .*waits for approval, for ever.*steps.answer\(event, data\)"):
        crash_everywhere(durable(app, body))
