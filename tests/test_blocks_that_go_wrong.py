"""Parallel blocks, doubts, pauses and limits that meet: no effect is done twice, no doubt is forgotten."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from runs.outside import store_of

from celery_steps import DurableTask, ResultError, RetryPolicy, Runs
from celery_steps.engine.attempt import active_attempt
from celery_steps.engine.entries import pack_control
from celery_steps.store.keys import RunId
from delivering import deliver, make_app
from servers import RedisServer

TICKET = {"headers": {"steps_ticket": True}}


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


def broken() -> None:
    """Fails when the others have had their time."""
    threading.Event().wait(0.3)
    raise ConnectionError("no route")


def ask(app: Celery, runs: Runs, what: str, task: str) -> None:
    if what in ("pause", "cancel"):
        getattr(runs, what)("a")
        return
    run = RunId(task, "a")
    store_of(app).control(
        "a", run, what="handover", nonce="n", entry=pack_control(str(run), "warm shutdown"), owner="worker@here/"
    )


@pytest.mark.parametrize("caught", [False, True])
def test_a_doubt_in_a_branch_stays_one_whatever_becomes_of_the_others(app: Celery, runs: Runs, caught: bool) -> None:
    calls: list[int] = []
    over = threading.Event()

    def charge() -> None:
        calls.append(1)
        over.wait(5)

    @app.task(bind=True, base=DurableTask, name="pay", autoretry_for=(ConnectionError,), max_retries=3, default_retry_delay=0)
    def pay(self: DurableTask) -> None:
        try:
            with self.step.parallel() as p:
                p.run("charge", charge, at_most_once=True, timeout=0.05)
                p.run("other", broken)
        except ConnectionError:
            if not caught:
                raise
        self.step.run("next", lambda: calls.append(2))

    deliver(pay, id="a")
    over.set()
    assert runs.get("a").status == "in_doubt"
    runs.resolve("a", done="by hand")
    deliver(pay, id="a", **TICKET)
    assert calls.count(1) == 1


@pytest.mark.parametrize("what", ["pause", "handover"])
@pytest.mark.parametrize("once", [False, True])
def test_a_run_that_is_asked_to_leave_does_so_when_its_branches_are_recorded(
    app: Celery, runs: Runs, what: str, once: bool
) -> None:
    calls: list[str] = []

    def slow() -> str:
        calls.append("slow")
        threading.Event().wait(0.5)
        return "slow"

    @app.task(bind=True, base=DurableTask, name="block")
    def block(self: DurableTask) -> list[Any]:
        with self.step.parallel(max_workers=2) as p:
            branches = [
                p.run("slow", slow, at_most_once=once),
                p.run("quick", lambda: ask(app, runs, what, "block")),
                p.run("third", lambda: 3),
            ]
        return [branch.result() for branch in branches]

    deliver(block, id="a")
    assert runs.get("a").status == ("paused" if what == "pause" else "suspended")
    if what == "pause":
        runs.unpause("a")
    assert deliver(block, id="a", **TICKET).retval == ["slow", None, 3]
    assert calls == ["slow"]


@pytest.mark.parametrize("what", ["pause", "handover", "cancel"])
def test_a_run_that_is_asked_to_leave_as_its_waits_begin_records_what_runs_first(app: Celery, runs: Runs, what: str) -> None:
    calls: list[str] = []
    undone: list[str] = []
    begun, asked = threading.Event(), threading.Event()

    def slow() -> str:
        calls.append("slow")
        begun.set()
        asked.wait(5)
        threading.Event().wait(0.2)
        return "slow"

    @app.task(bind=True, base=DurableTask, name="block")
    def block(self: DurableTask) -> str:
        with self.step.parallel() as p:
            branch = p.run("slow", slow, rollback=undone.append)
            p.sleep("a moment", 0)
            if not asked.is_set():
                begun.wait(5)
                ask(app, runs, what, "block")
                # This attempt hears of it by its heartbeat.
                attempt = active_attempt()
                attempt.saw(int(store_of(app).fields("a")["fence"]))
                asked.set()
        return branch.result()

    deliver(block, id="a")
    assert [(record.key, record.status) for record in runs.records("a")] == [("slow", "undone" if what == "cancel" else "done")]
    if what == "pause":
        runs.unpause("a")
    if what == "cancel":
        assert (runs.get("a").status, undone) == ("cancelled", ["slow"])
    else:
        assert deliver(block, id="a", **TICKET).retval == "slow"
    assert calls == ["slow"]


def test_a_handover_just_before_an_intent_leaves_no_doubt(app: Celery, runs: Runs) -> None:
    calls: list[int] = []

    @app.task(bind=True, base=DurableTask, name="once")
    def once(self: DurableTask) -> None:
        self.step.run("first", lambda: 1)
        if self.step.attempt == 1:
            ask(app, runs, "handover", "once")
        self.step.run("charge", lambda: calls.append(1), at_most_once=True)
        self.step.run("last", lambda: 1)

    deliver(once, id="a")
    deliver(once, id="a", **TICKET)
    assert calls == [1]
    assert runs.get("a").status == "succeeded"


def test_a_handler_that_succeeded_is_not_tried_again_for_its_result(app: Celery) -> None:
    calls: list[int] = []

    def charge() -> object:
        calls.append(1)
        return object()

    @app.task(bind=True, base=DurableTask, name="pay")
    def pay(self: DurableTask) -> Any:
        return self.step.run("charge", charge, retry=RetryPolicy(max_retries=3, delay=0))

    assert isinstance(deliver(pay, id="a").retval.exception, ResultError)
    assert calls == [1]


def test_a_soft_time_limit_is_no_failure_to_try_again(app: Celery) -> None:
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        raise SoftTimeLimitExceeded

    @app.task(bind=True, base=DurableTask, name="limited")
    def limited(self: DurableTask) -> str:
        try:
            self.step.run("slow", slow, retry=RetryPolicy(max_retries=3, delay=0))
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "done"

    assert deliver(limited, id="a").retval == "cleaned up"
    assert calls == [1]


@pytest.mark.parametrize("then", ["retries", "sleeps"])
def test_a_pause_that_a_run_meets_as_it_leaves_can_be_taken_back(app: Celery, runs: Runs, then: str) -> None:
    asked: list[int] = []

    @app.task(bind=True, base=DurableTask, name="leaves", autoretry_for=(ConnectionError,), default_retry_delay=600)
    def leaves(self: DurableTask) -> None:
        def first() -> None:
            if not asked:
                asked.append(1)
                runs.pause("a")
                if then == "retries":
                    raise ConnectionError

        self.step.run("first", first)
        self.step.sleep("a while", "5m")

    deliver(leaves, id="a")
    runs.unpause("a")
    assert runs.get("a").status in ("retrying", "suspended")


def test_a_retried_run_whose_worker_dies_before_it_stores_the_new_end_stores_it_later(
    app: Celery, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [True]

    @app.task(bind=True, base=DurableTask, name="again")
    def again(self: DurableTask) -> str:
        self.step.run("first", lambda: 1)
        if failing:
            raise ValueError("no passport")
        return "fine"

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    deliver(again, id="a")
    failing.clear()
    runs.retry("a")
    with monkeypatch.context() as patch:
        patch.setattr(app.backend, "mark_as_done", die)
        with pytest.raises(KeyboardInterrupt):
            deliver(again, id="a", **TICKET)
    store_of(app).client.call("HSET", store_of(app).keys.namespace("a").run, "again/a/0:settling", "0")
    deliver(again, id="a", **TICKET)
    assert (runs.get("a").status, again.AsyncResult("a").state) == ("succeeded", "SUCCESS")


def test_an_undo_may_log_and_has_an_idempotency_key_of_its_own(app: Celery, runs: Runs) -> None:
    from celery_steps import current_step

    keys: list[str] = []

    @app.task(bind=True, base=DurableTask, name="undone")
    def undone(self: DurableTask) -> None:
        def undo(result: str) -> None:
            self.step.log.info("undoing", result=result, run=self.step.run_id)
            keys.append(current_step().idempotency_key)

        def act() -> str:
            keys.append(current_step().idempotency_key)
            return "booked"

        self.step.run("book", act, rollback=undo)
        raise ValueError("no passport")

    deliver(undone, id="a")
    assert len(set(keys)) == 2
    assert [line.message for line in runs.logs("a")] == ["undoing"]


@pytest.mark.parametrize("caught", [False, True])
def test_what_an_operator_said_of_a_branch_holds_whatever_becomes_of_the_others(app: Celery, runs: Runs, caught: bool) -> None:
    calls: list[str] = []
    undone: list[str] = []
    said: list[str] = []

    def charge() -> str:
        calls.append("charge")
        raise KeyboardInterrupt  # the process is gone

    def fail() -> None:
        raise ConnectionError("no route")

    @app.task(bind=True, base=DurableTask, name="pay")
    def pay(self: DurableTask) -> None:
        try:
            with self.step.parallel(max_workers=1) as p:
                if said:
                    p.run("other", fail)
                    threading.Event().wait(0.05)  # what is not begun by now is dropped
                p.run("charge", charge, at_most_once=True, rollback=undone.append)
        except ConnectionError:
            if not caught:
                raise
        self.step.run("next", lambda: 1)
        raise ValueError("no passport")

    with pytest.raises(KeyboardInterrupt):
        deliver(pay, id="a")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("a").run, "lease", "0")
    deliver(pay, id="a", **TICKET)
    assert runs.get("a").status == "in_doubt"
    runs.resolve("a", done="CH-1")
    said.append("CH-1")
    deliver(pay, id="a", **TICKET)
    assert (runs.get("a").status, undone, calls) == ("failed", ["CH-1"], ["charge"])


def test_a_branch_in_doubt_that_is_given_up_stays_in_doubt(app: Celery, runs: Runs) -> None:
    calls: list[str] = []

    def charge() -> str:
        calls.append("charge")
        raise KeyboardInterrupt  # the process is gone

    def fail() -> None:
        raise ConnectionError("no route")

    @app.task(bind=True, base=DurableTask, name="pay")
    def pay(self: DurableTask) -> None:
        try:
            with self.step.parallel(max_workers=1) as p:
                if calls:
                    p.run("other", fail)
                p.run("charge", charge, at_most_once=True)
        except ConnectionError:
            pass
        self.step.run("next", lambda: 1)
        self.step.sleep("a while", "1h")

    with pytest.raises(KeyboardInterrupt):
        deliver(pay, id="a")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("a").run, "lease", "0")
    deliver(pay, id="a", **TICKET)
    assert [record.key for record in runs.records("a") if record.status == "failed"] == ["other"]
    runs.cancel("a")
    deliver(pay, id="a", **TICKET)
    assert calls == ["charge"]
