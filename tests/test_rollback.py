"""`rollback=`: what a run executed is undone when it ends failed or cancelled."""

from __future__ import annotations

import threading

import pytest
from celery import Celery
from runs.outside import store_of

from celery_steps import DurableTask, RunRefused, Runs
from celery_steps.engine import rollback
from celery_steps.engine.retry import RetryPolicy
from delivering import deliver, make_app, published
from servers import RedisServer

TICKET = {"headers": {"steps_ticket": True}}


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


@pytest.fixture(autouse=True)
def _undos_are_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "_POLICY", RetryPolicy(max_retries=2, delay=0))


class Travel:
    """Books a journey, and can cancel what it booked."""

    def __init__(self, app: Celery) -> None:
        self.booked: list[str] = []
        self.cancelled: list[str] = []
        self.broken: dict[str, list[BaseException]] = {}  # what the cancelling of it raises, in this order
        travel = self

        @app.task(bind=True, base=DurableTask, name="shop.travel")
        def travel_task(self: DurableTask, end: str = "fails") -> str:
            for what in ("flight", "hotel", "car"):
                self.step.run(what, what, travel.book, rollback=travel.cancel)
            self.step.run("mail", lambda: "sent")
            if end == "fails":
                raise ValueError("no passport")
            self.step.wait_for_event("go")
            return "there"

        self.task = travel_task

    def book(self, what: str) -> str:
        self.booked.append(what)
        return f"{what} 42"

    def cancel(self, booking: str) -> None:
        trouble = self.broken.get(booking)
        if trouble:
            raise trouble.pop(0)
        self.cancelled.append(booking)


@pytest.fixture
def travel(app: Celery) -> Travel:
    return Travel(app)


NEWEST_FIRST = ["car 42", "hotel 42", "flight 42"]


def let_the_lease_run_out(app: Celery) -> None:
    store_of(app).client.call("HSET", store_of(app).keys.namespace("id-1").run, "lease", "0")


def test_a_run_that_fails_undoes_newest_first_once_celery_has_stored_it(app: Celery, runs: Runs, travel: Travel) -> None:
    seen: list[str] = []
    cancel = travel.cancel
    travel.cancel = lambda booking: (seen.append(travel.task.AsyncResult("id-1").state), cancel(booking))  # type: ignore
    deliver(travel.task, id="id-1")
    assert travel.cancelled == NEWEST_FIRST
    assert set(seen) == {"FAILURE"}
    run = runs.get("id-1")
    assert (run.status, str(run.error)) == ("failed", "no passport")


def test_a_run_that_succeeds_undoes_nothing(app: Celery, runs: Runs, travel: Travel) -> None:
    deliver(travel.task, "well", id="id-1")
    store_of(app).deliver("id-1", "go", "e", b"\x00\xa1x")
    assert runs.get("id-1").status == "suspended"
    assert travel.cancelled == []


def test_a_retry_is_no_end(app: Celery, travel: Travel, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.again", autoretry_for=(ValueError,), max_retries=1)
    def again(self: DurableTask) -> None:
        self.step.run("car", "car", travel.book, rollback=travel.cancel)
        raise ValueError("no passport")

    deliver(again, id="id-1")
    assert travel.cancelled == []
    runs.pause("id-1")
    runs.unpause("id-1")
    deliver(again, id="id-1", retries=1, **TICKET)
    assert travel.booked == ["car"]
    assert travel.cancelled == ["car 42"]
    assert runs.get("id-1").status == "failed"


def test_a_cancelled_run_is_replayed_to_where_it_was_and_undone(app: Celery, runs: Runs, travel: Travel) -> None:
    deliver(travel.task, "well", id="id-1")
    runs.cancel("id-1")
    published(app)
    deliver(travel.task, "well", id="id-1", **TICKET)
    if runs.get("id-1").status == "rolling_back":
        deliver(travel.task, "well", id="id-1", **TICKET)
    assert travel.cancelled == NEWEST_FIRST
    assert travel.booked == ["flight", "hotel", "car"]
    assert runs.get("id-1").status == "cancelled"
    assert travel.task.AsyncResult("id-1").state == "REVOKED"


@pytest.mark.parametrize("where", ["car 42", "hotel 42", "flight 42"])
def test_killed_in_the_middle_the_rollback_goes_on_where_it_was(app: Celery, runs: Runs, travel: Travel, where: str) -> None:
    travel.broken[where] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        deliver(travel.task, id="id-1")
    assert runs.get("id-1").status == "rolling_back"
    with pytest.raises(RunRefused, match="is rolling_back, so it cannot be asked to cancel"):
        runs.cancel("id-1")
    let_the_lease_run_out(app)
    deliver(travel.task, id="id-1", **TICKET)
    assert travel.cancelled == NEWEST_FIRST, "each once"
    assert travel.booked == ["flight", "hotel", "car"]
    assert runs.get("id-1").status == "failed"
    assert travel.task.AsyncResult("id-1").state == "FAILURE"


def test_an_undo_is_tried_again(app: Celery, runs: Runs, travel: Travel) -> None:
    travel.broken["hotel 42"] = [ConnectionError(), ConnectionError()]
    deliver(travel.task, id="id-1")
    assert travel.cancelled == NEWEST_FIRST


def test_an_undo_that_keeps_failing_leaves_the_older_ones_and_says_so(app: Celery, runs: Runs, travel: Travel) -> None:
    travel.broken["hotel 42"] = [ConnectionError("no route") for _ in range(9)]
    deliver(travel.task, id="id-1")
    assert travel.cancelled == ["car 42"]
    run = runs.get("id-1")
    assert run.status == "failed"
    assert run.to_undo == (("hotel", 1), ("flight", 1))


def test_tries_that_are_far_apart_free_the_worker(
    app: Celery, runs: Runs, travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "_POLICY", RetryPolicy(max_retries=2, delay=600, max_delay=600))
    travel.broken["car 42"] = [ConnectionError()]
    deliver(travel.task, id="id-1")
    run = runs.get("id-1")
    assert (run.status, run.waiting) == ("rolling_back", "rollback of 'car' (occurrence 1)")
    assert travel.task.AsyncResult("id-1").state == "FAILURE"
    keys = store_of(app).keys.namespace("id-1")
    store_of(app).client.call("HSET", keys.run, "shop.travel/id-1/0:wake", "0")
    deliver(travel.task, id="id-1", **TICKET)
    assert travel.cancelled == NEWEST_FIRST
    assert travel.task.AsyncResult("id-1").state == "FAILURE"


def test_only_what_this_run_executed_is_undone(app: Celery, runs: Runs, travel: Travel) -> None:
    other = {"headers": {"steps_namespace": "trip"}}

    @app.task(bind=True, base=DurableTask, name="shop.first")
    def first(self: DurableTask) -> None:
        self.step.run("flight", "flight", travel.book, rollback=travel.cancel)

    deliver(first, id="id-0", **other)
    deliver(travel.task, id="id-1", **other)
    assert travel.cancelled == ["car 42", "hotel 42"]


def test_in_memory_a_failure_is_undone_as_well(travel: Travel) -> None:
    with pytest.raises(ValueError, match="no passport"):
        travel.task()
    assert travel.cancelled == NEWEST_FIRST


def test_a_cancel_that_waits_for_its_undos_warns_of_nothing(
    app: Celery, runs: Runs, travel: Travel, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(travel.task, "waits", id="id-1")
    runs.cancel("id-1")
    for _ in range(2):  # the second replays the body for its undos
        deliver(travel.task, "waits", id="id-1", **TICKET)
    assert (runs.get("id-1").status, travel.cancelled) == ("cancelled", NEWEST_FIRST)
    assert [record.message for record in caplog.records if record.name == "celery_steps"] == []


def test_a_cancel_met_by_a_retry_undoes_too_however_often_that_is_tried(
    app: Celery, runs: Runs, travel: Travel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollback, "_POLICY", RetryPolicy(max_retries=2, delay=5))
    travel.broken["flight 42"] = [ConnectionError("no route back")]

    @app.task(bind=True, base=DurableTask, name="shop.short")
    def short(self: DurableTask) -> None:
        self.step.run("flight", "flight", travel.book, rollback=travel.cancel)
        runs.cancel(self.request.id)
        raise self.retry(countdown=0)

    deliver(short, id="id-1")
    assert runs.get("id-1").status == "rolling_back"
    store_of(app).client.call("HSET", store_of(app).keys.namespace("id-1").run, "shop.short/id-1/0:wake", "0")
    deliver(short, id="id-1", **TICKET)
    assert (runs.get("id-1").status, travel.cancelled) == ("cancelled", ["flight 42"])
    assert short.AsyncResult("id-1").state == "REVOKED"
    assert [record.message for record in caplog.records if record.name == "celery_steps"] == []


def test_a_rollback_that_goes_on_later_comes_by_every_branch(app: Celery, runs: Runs) -> None:
    tries: list[str] = []

    def undo(result: str) -> None:
        tries.append(result)
        if len(tries) == 1:
            raise KeyboardInterrupt  # the process is gone

    booked = threading.Event()

    def fail() -> None:
        booked.wait(5)
        raise ValueError("no passport")

    @app.task(bind=True, base=DurableTask, name="shop.block")
    def block(self: DurableTask) -> None:
        with self.step.parallel() as p:
            p.run("visa", fail)
            if tries:
                threading.Event().wait(0.05)  # a branch that begins would be over before the next one
            p.run("hotel", lambda: booked.set() or "hotel 42", rollback=undo)

    with pytest.raises(KeyboardInterrupt):
        deliver(block, id="id-1")
    let_the_lease_run_out(app)
    deliver(block, id="id-1", **TICKET)
    assert runs.get("id-1").status == "failed"
    assert tries == ["hotel 42", "hotel 42"]
    assert runs.get("id-1").to_undo == ()
