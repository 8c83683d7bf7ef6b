"""Runs.logs and Runs.emit, and what Runs.get and Runs.records tell of a run that waits."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, RunRefused, Runs, StepsError
from celery_steps.engine.entries import pack_control
from celery_steps.store.keys import RunId
from delivering import deliver
from runs.outside import store_of


@pytest.fixture
def talk(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.talk")
    def talk(self: DurableTask, lines: int = 1) -> None:
        for number in range(lines):
            self.step.log.info("line", number=number)
        self.step.run("charge", lambda: self.step.log.warning("slow", seconds=3))
        self.step.log.error("bad")
        self.step.log.debug("over")

    return talk


@pytest.fixture
def approval(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.approval")
    def approval(self: DurableTask) -> Any:
        self.step.run("load", lambda: 1)
        with self.step.parallel() as block:
            block.wait_for_event("approved", "order.approved", timeout="24h")
            block.sleep("at least", "1h")
            block.wait_for_event("paid")
        return "done"

    return approval


# -- lines --------------------------------------------------------------------------------------------------------------


def test_lines_come_oldest_first_with_all_that_is_known(runs: Runs, talk: Any) -> None:
    deliver(talk, id="id-1", headers={"steps_namespace": "order-42"})
    first, second, *_ = lines = runs.logs("order-42")
    assert [(line.level, line.message, line.data) for line in lines] == [
        ("info", "line", {"number": 0}),
        ("warning", "slow", {"seconds": 3}),
        ("error", "bad", {}),
        ("debug", "over", {}),
    ]
    assert (first.namespace, first.run_id, first.task, first.attempt) == ("order-42", "id-1", "shop.talk", 1)
    assert (first.key, first.sequence, second.key, second.sequence) == ("", 0, "charge", 1)
    assert first.id < second.id
    now = datetime.now(timezone.utc)
    assert now - timedelta(minutes=1) < first.at <= second.at < now + timedelta(minutes=1)
    assert dataclasses.is_dataclass(first)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.message = "changed"  # type: ignore[misc]


def test_lines_of_one_run_and_of_a_namespace(runs: Runs, talk: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(talk, 3, id=id, headers={"steps_namespace": "order-42"})
    assert {line.run_id for line in runs.logs("order-42")} == {"id-1", "id-2"}
    assert {line.run_id for line in runs.logs("id-2")} == {"id-2"}


def test_the_newest_lines_are_taken_and_pages_are_joined(runs: Runs, talk: Any) -> None:
    deliver(talk, 250, id="id-1")
    assert len(runs.logs("id-1")) == 253
    assert [line.data.get("number") for line in runs.logs("id-1", limit=5)] == [248, 249, None, None, None]


def test_lines_are_taken_by_level_and_time(app: Celery, runs: Runs, talk: Any) -> None:
    deliver(talk, id="id-1")
    assert [line.level for line in runs.logs("id-1", level="warning")] == ["warning", "error"]
    assert [line.level for line in runs.logs("id-1", level="warning", limit=1)] == ["error"]
    assert len(runs.logs("id-1", since="1h")) == 4
    assert runs.logs("id-1", since=datetime.now(timezone.utc) + timedelta(hours=1)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "loud"}, "There is no level 'loud': it is one of debug, info, warning, error"),
        ({"limit": 0}, "limit must be from 1 to 10,000"),
        ({"since": "yesterday"}, "since must be"),
    ],
)
def test_what_cannot_be_asked_is_an_error(runs: Runs, options: Any, message: str) -> None:
    with pytest.raises(StepsError, match=message):
        runs.logs("id-1", **options)


def test_a_run_that_nobody_knows_has_no_lines(runs: Runs, greet: Any) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nothing'"):
        runs.logs("nothing")
    deliver(greet, id="id-1")
    assert runs.logs("id-1") == []


def test_a_line_that_cannot_be_read_does_not_hide_the_others(app: Celery, runs: Runs, talk: Any) -> None:
    deliver(talk, id="id-1")
    store = store_of(app)
    log = store.keys.namespace("id-1").log
    whole = store.client.call("XRANGE", log, "-", "+", "COUNT", "1")[0][1][1]
    for at, data in ((b"x", b"\xff"), (b"1", b""), (b"1", b"\x90"), (b"1", whole[:-3] + b"\xc1\xc1\xc1"), (b"1", b"\x91\x63")):
        store.client.call("XADD", log, "*", at, data)
    lines = runs.logs("id-1")
    assert [line.message for line in lines[:4]] == ["line", "slow", "bad", "over"]
    assert len(lines) == 9
    assert all(line.corrupt for line in lines[4:])


# -- sending events -----------------------------------------------------------------------------------------------------


def test_an_event_wakes_the_run_that_waits_for_it_and_counts_once(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> Any:
        return [self.step.wait_for_event("approved"), self.step.wait_for_event("approved", timeout=0)]

    deliver(task, id="id-1", headers={"steps_namespace": "order-42"})
    assert runs.emit("approved", {"by": "ann"}, to="order-42", id="event-1") == 1
    assert runs.emit("approved", {"by": "bob"}, to="order-42", id="event-1") == 1
    assert deliver(task, id="id-1", redelivered=True, headers={"steps_namespace": "order-42"}).retval == [{"by": "ann"}, None]
    with pytest.raises(RunRefused, match="every run of namespace 'order-42' is finished"):
        runs.emit("approved", {}, to="order-42")


def test_an_event_to_a_task_id_goes_to_its_namespace(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> Any:
        return self.step.wait_for_event("approved")

    deliver(task, id="id-1", headers={"steps_namespace": "order-42"})
    assert runs.emit("approved", "yes", to="id-1") == 1
    assert deliver(task, id="id-1", redelivered=True, headers={"steps_namespace": "order-42"}).retval == "yes"


def test_an_event_for_everyone_reaches_who_waits_now(app: Celery, runs: Runs, approval: Any) -> None:
    assert runs.emit("order.approved", {}) == 0
    for id in ("id-1", "id-2"):
        deliver(approval, id=id)
    assert runs.emit("order.approved", {}) == 2
    assert runs.emit("order.approved", {}, to="nobody heard of it yet") == 0


@pytest.mark.parametrize(
    ("event", "data", "options", "message"),
    [
        ("", {}, {}, "emit: an event's name must be text that is not blank"),
        (" ", {}, {"to": "x"}, "name must be text that is not blank"),
        (None, {}, {}, "name must be text"),
        ("paid", None, {}, "data cannot be None"),
        ("paid", {}, {"to": " "}, "emit's to must be text that is not blank"),
        ("paid", {}, {"to": "x" * 513}, "at most 512 are allowed"),
        ("paid", {}, {"id": ""}, "an event's id must be text that is not blank"),
        ("paid", {"odd": object()}, {"to": "x"}, "odd"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused(runs: Runs, event: Any, data: Any, options: Any, message: str) -> None:
    with pytest.raises(StepsError, match=message):
        runs.emit(event, data, **options)


# -- what a run waits for -----------------------------------------------------------------------------------------------


def test_a_suspended_run_tells_every_wait_and_its_deadline(runs: Runs, approval: Any) -> None:
    deliver(approval, id="id-1")
    run = runs.get("id-1")
    assert [(w.key, w.sequence, w.verb, w.about) for w in run.waits] == [
        ("approved", 1, "wait_for_event", "order.approved"),
        ("at least", 1, "sleep", ""),
        ("paid", 1, "wait_for_event", "paid"),
    ]
    approved, rest, paid = run.waits
    assert approved.until is not None
    assert rest.until is not None
    assert timedelta(hours=22) < approved.until - rest.until < timedelta(hours=24)
    assert paid.until is None
    assert run.wake_at is not None
    assert abs(run.wake_at - rest.until) < timedelta(minutes=1)
    listed = runs.list().runs[0]
    assert sorted(listed.events) == ["order.approved", "paid"]
    assert listed.waits == ()


def test_a_run_that_waits_for_ever_has_no_time_of_waking(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.wait_for_event("never")

    deliver(task, id="id-1")
    assert runs.get("id-1").wake_at is None
    assert runs.list().runs[0].events == ("never",)


def test_records_tell_their_verb_and_a_wait_that_goes_on_is_one(app: Celery, runs: Runs, approval: Any) -> None:
    deliver(approval, id="id-1")
    runs.emit("paid", {"cents": 100}, to="id-1")
    deliver(approval, id="id-1", redelivered=True)
    records = {record.key: record for record in runs.records("id-1")}
    assert [(record.key, record.verb, record.status) for record in records.values()] == [
        ("load", "run", "done"),
        ("paid", "wait_for_event", "done"),
        ("approved", "wait_for_event", "waiting"),
        ("at least", "sleep", "waiting"),
    ]
    assert records["paid"].result == {"cents": 100}
    waits_for = records["at least"].waits_for
    assert waits_for is not None
    assert waits_for in runs.get("id-1").waits
    assert records["paid"].waits_for is None


def test_a_run_that_was_cancelled_waits_for_nothing(app: Celery, runs: Runs, approval: Any) -> None:
    deliver(approval, id="id-1")
    run = RunId(approval.name, "id-1")
    store_of(app).control("id-1", run, what="cancel", nonce="n", entry=pack_control(str(run), "enough"))
    deliver(approval, id="id-1", redelivered=True)
    assert runs.get("id-1").status == "cancelled"
    assert runs.get("id-1").waits == ()
    assert [record.key for record in runs.records("id-1")] == ["load"]
    assert [(r.key, r.status) for r in runs.records("id-1", attempts=True)][1:] == [
        ("approved", "begun"),
        ("at least", "begun"),
        ("paid", "begun"),
    ]
