"""Signals: sent after what they tell of is recorded, to receivers that cannot change anything."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import FrozenInstanceError
from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_steps import DurableTask, RetryPolicy, Runs, signals
from celery_steps.engine import telling
from celery_steps.engine.attempt import current
from celery_steps.errors import LeaseLost
from celery_steps.signals import Awaited, Problem, step_executed
from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Append
from celery_steps.worker import runtime
from celery_steps.worker.messages import TICKET
from celery_steps.worker.process import token_prefix
from delivering import app_of_its_own, close, deliver, make_app
from servers import RedisServer


class Heard(list[tuple[str, Any]]):
    """What was told, in order: the signal's name and its details."""

    def receive(self, signal: Any, sender: Any, details: Any, **_: Any) -> None:
        self.append((signal.name, details))

    @property
    def words(self) -> list[str]:
        """Shortened: the signal and what of."""
        return [f"{name} {details.key if name.startswith('step') else details.status}" for name, details in self]

    def of(self, name: str) -> list[Any]:
        return [details for told, details in self if told == name]


@contextmanager
def connected(receiver: Any, *names: str) -> Iterator[None]:
    wanted = [signals.SIGNALS[name] for name in names or signals.SIGNALS]
    for signal in wanted:
        signal.connect(receiver)
    try:
        yield
    finally:
        for signal in wanted:
            signal.disconnect(receiver)


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    with connected(heard.receive):
        yield heard


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server, steps_lease_ttl=600)
    yield app
    close(app)


def after(seconds: float, at: datetime | None) -> bool:
    """Whether that is in about so many seconds."""
    return at is not None and abs(at.timestamp() - time.time() - seconds) < 60


def refuse() -> None:
    raise ValueError("no")


def one_step() -> Any:
    """A task with one step, called without a worker."""
    app = app_of_its_own("one")

    @app.task(bind=True, base=DurableTask)
    def order(self: DurableTask) -> int:
        return self.step.run("one", lambda: 1)

    return order


# -- what is told -------------------------------------------------------------------------------------------------------


def test_a_run_tells_of_its_attempts_and_of_each_step_once(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask, max_retries=3)
    def order(self: DurableTask) -> str:
        self.step.run("load", lambda: 1)
        self.step.sleep_until("past", 1)
        if not self.request.retries:
            raise self.retry(countdown=0, exc=OSError("busy"))
        self.step.wait_for_event("approved", timeout=7200)
        return self.step.run("ship", lambda: "shipped")

    deliver(order, id="id-1")
    assert heard.words == ["run_started running", "step_executed load", "step_executed past", "run_suspended retrying"]
    retrying = heard[-1][1]
    assert after(0, retrying.until)
    assert (retrying.error.type, retrying.error.message) == ("celery.exceptions.Retry", "Retry in 0s: OSError('busy')")

    heard.clear()
    deliver(order, id="id-1", retries=1, headers={TICKET: True})
    replayed = ["step_replayed load", "step_replayed past"]
    assert heard.words == ["run_resumed running", *replayed, "run_suspended suspended"]
    asleep = heard[-1][1]
    assert after(7200, asleep.until)
    assert asleep.waits == (Awaited("approved", "wait_for_event approved", asleep.waits[0].until),)
    assert (asleep.task, asleep.run_id, asleep.namespace, asleep.attempt, asleep.retries) == ("order", "id-1", "id-1", 2, 1)

    heard.clear()
    Runs(app).emit("approved", {"by": "ann"}, to="id-1")
    deliver(order, id="id-1", retries=1, headers={TICKET: True})
    news = ["step_executed approved", "step_executed ship", "run_finished succeeded"]
    assert heard.words == ["run_resumed running", *replayed, *news]
    ship = heard.of("step_executed")[1]
    assert (ship.key, ship.sequence, ship.verb, ship.attempt, ship.namespace) == ("ship", 1, "run", 3, "id-1")
    assert (ship.error, ship.recorded) == (None, True)


def test_a_failure_says_whether_it_stands(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with suppress(ValueError):
            self.step.run("caught", refuse)
        with suppress(ValueError):
            self.step.run("tried", refuse, retry=RetryPolicy(max_retries=1, delay=0))
        self.step.run("last", refuse)

    deliver(order, id="id-1")
    failed = heard.of("step_failed")
    assert [(one.key, one.recorded, one.next_try is not None) for one in failed] == [
        ("caught", True, False),
        ("tried", False, True),
        ("tried", True, False),
        ("last", False, False),
    ]
    assert {(one.error.type, one.error.message) for one in failed} == {("ValueError", "no")}
    assert "in refuse" in failed[0].error.traceback
    assert heard.words[-1] == "run_finished failed"
    assert heard[-1][1].error.message == "no"


def test_a_replayed_failure_is_a_replay_with_its_error(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with suppress(ValueError):
            self.step.run("caught", refuse)
        self.step.wait_for_event("approved")

    deliver(order, id="id-1")
    Runs(app).emit("approved", 1, to="id-1")
    heard.clear()
    deliver(order, id="id-1", headers={TICKET: True})
    assert [(one.key, one.error.message) for one in heard.of("step_replayed")] == [("caught", "no")]
    assert heard.of("step_failed") == []


def test_branches_tell_of_themselves(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with self.step.parallel(return_exceptions=True) as p:
            p.map("item", [1, 2, 3], lambda item: item)
            p.run("broken", refuse)
            p.wait_for_event("approved")

    deliver(order, id="id-1")
    assert sorted((one.key, one.sequence) for one in heard.of("step_executed")) == [("item", 1), ("item", 2), ("item", 3)]
    assert [(one.key, one.recorded) for one in heard.of("step_failed")] == [("broken", True)]
    heard.clear()
    Runs(app).emit("approved", 1, to="id-1")
    deliver(order, id="id-1", headers={TICKET: True})
    assert len(heard.of("step_replayed")) == 4
    assert [one.key for one in heard.of("step_executed")] == ["approved"]
    assert heard.of("step_failed") == []


def test_branches_that_were_given_up_are_failures_once_the_body_goes_on(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with suppress(ValueError), self.step.parallel() as p:
            p.sleep("nap", 3600)
            p.run("broken", refuse)

    deliver(order, id="id-1")
    failed = {one.key: one for one in heard.of("step_failed")}
    assert sorted(failed) == ["broken", "nap"]
    assert failed["nap"].error.type == "celery_steps.engine.parallel.Dropped"
    assert (failed["nap"].verb, failed["nap"].recorded) == ("sleep", True)


def test_a_step_in_another_namespace_names_that(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("count", lambda: 1, namespace="shared")

    deliver(order, id="id-1")
    deliver(order, id="id-2")
    assert [one.namespace for one in heard.of("step_executed")] == ["shared"]
    assert [one.namespace for one in heard.of("step_replayed")] == ["shared"]


def test_what_is_refused_is_not_told(app: Celery, heard: Heard) -> None:
    run = RunId("order", "id-1")

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        self.step.run("two", replace)

    def replace() -> None:
        """Another attempt takes the run, and goes to its end."""
        if not heard.of("run_resumed"):
            assert runtime.of(app).store.release(run.id, run, token_prefix("worker@here", os.getpid()), 0)
            other = threading.Thread(target=deliver, args=(order,), kwargs={"id": run.id, "redelivered": True})
            other.start()
            other.join()

    deliver(order, id=run.id)
    assert [(one.key, one.attempt) for one in heard.of("step_executed")] == [("one", 1), ("two", 2)]
    assert [one.attempt for one in heard.of("lease_lost")] == [1]
    assert heard.words.count("run_finished succeeded") == 1


def test_a_commit_that_a_soft_time_limit_interrupts_is_told_all_the_same(
    app: Celery, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> str:
        with suppress(SoftTimeLimitExceeded):
            self.step.run("one", lambda: 1)
        return "in time"

    commit, interrupts = Binding.commit, [SoftTimeLimitExceeded()]

    def interrupted(self: Binding, *args: Any, **options: Any) -> Append:
        reply = commit(self, *args, **options)
        if interrupts:
            raise interrupts.pop()
        return reply

    monkeypatch.setattr(Binding, "commit", interrupted)
    assert deliver(order, id="id-1").retval == "in time"
    assert heard.words == ["run_started running", "step_executed one", "run_finished succeeded"]


def test_a_run_that_is_unpaused_while_it_leaves_is_told_as_it_is_stored(
    app: Celery, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: Runs(app).pause("id-1"))
        self.step.run("two", lambda: 2)

    suspend, unpauses = Binding.suspend, [lambda: Runs(app).unpause("id-1")]

    def unpaused(self: Binding, *args: Any, **options: Any) -> Append:
        if unpauses:
            unpauses.pop()()
        return suspend(self, *args, **options)

    monkeypatch.setattr(Binding, "suspend", unpaused)
    deliver(order, id="id-1")
    assert Runs(app).get("id-1").status == "suspended"
    (left,) = heard.of("run_suspended")
    assert left.status == "suspended"
    assert after(0, left.until)


def test_a_cancelled_run_and_one_that_ends_itself_say_so(app: Celery, heard: Heard) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask, end: str) -> None:
        self.step.run("one", lambda: 1)
        if end == "ignored":
            raise Ignore
        if end == "rejected":
            raise Reject("no", requeue=False)
        self.step.sleep("nap", 3600)

    for end in ("ignored", "rejected", "cancelled"):
        deliver(order, end, id=end)
    Runs(app).cancel("cancelled")
    deliver(order, "cancelled", id="cancelled", headers={TICKET: True})
    assert [one.status for one in heard.of("run_finished")] == ["ignored", "rejected", "cancelled"]


def test_a_journal_that_is_gone_ends_the_run(app: Celery, heard: Heard, redis_server: RedisServer) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        self.step.sleep("nap", 3600)

    deliver(order, id="id-1")
    with redis_server.client(int(app.conf.steps_backend.rpartition("/")[2])) as client:
        client.delete(*client.scan_iter("steps:*:journal:*"))
    deliver(order, id="id-1", headers={TICKET: True})
    assert [(one.status, one.error.type) for one in heard.of("run_finished")] == [("failed", "celery_steps.errors.JournalLost")]


def test_a_step_whose_before_commit_raises_has_failed(app: Celery, heard: Heard) -> None:
    def broken(step: Any, result: Any) -> None:
        raise OSError("disk full")

    @app.task(name="order", bind=True, base=DurableTask, before_commit=broken)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)

    deliver(order, id="id-1")
    assert heard.words == ["run_started running", "step_failed one", "run_finished failed"]
    assert (heard.of("step_failed")[0].error.message, heard.of("step_failed")[0].recorded) == ("disk full", False)


@pytest.mark.parametrize("call", ["directly", "eagerly"])
def test_outside_a_worker_the_same_is_told(heard: Heard, call: str) -> None:
    app = app_of_its_own("outside")

    @app.task(bind=True, base=DurableTask)
    def order(self: DurableTask, fails: bool = False) -> str:
        self.step.run("one", lambda: 1)
        self.step.sleep("nap", 3600)
        if fails:
            self.step.run("two", refuse)
        return "done"

    begins = ["run_started running", "step_executed one", "step_executed nap"]
    assert (order() if call == "directly" else order.apply().get()) == "done"
    assert heard.words == [*begins, "run_finished succeeded"]
    heard.clear()
    with pytest.raises(ValueError, match="no"):
        order(True) if call == "directly" else order.apply((True,), throw=True)
    assert heard.words == [*begins, "step_failed two", "run_finished failed"]


def test_an_eager_retry_is_another_attempt(heard: Heard) -> None:
    app = app_of_its_own("eager")

    @app.task(bind=True, base=DurableTask, max_retries=1)
    def order(self: DurableTask) -> str:
        self.step.run("one", lambda: 1)
        if not self.request.retries:
            raise self.retry(countdown=0)
        return "done"

    assert order.apply().get() == "done"
    again = ["run_resumed running", "step_replayed one", "run_finished succeeded"]
    assert heard.words == ["run_started running", "step_executed one", "run_suspended retrying", *again]


def test_a_task_without_a_step_tells_nothing(app: Celery, heard: Heard) -> None:
    @app.task(name="plain", base=DurableTask)
    def plain() -> int:
        return 1

    assert deliver(plain, id="id-1").retval == plain() == 1
    assert heard == []


# -- who is told --------------------------------------------------------------------------------------------------------


def test_a_receiver_of_one_task_hears_of_that_task_only() -> None:
    one, two, heard = one_step(), one_step(), Heard()
    step_executed.connect(heard.receive, sender=two)
    try:
        one()
        assert heard == []
        two()
    finally:
        step_executed.disconnect(heard.receive, sender=two)
    assert heard.words == ["step_executed one"]


def test_details_cannot_be_changed(heard: Heard) -> None:
    one_step()()
    assert len(heard) == 3
    for _, details in heard:
        with pytest.raises(FrozenInstanceError):
            details.task = "another"
        assert isinstance(hash(details), int)  # nothing in it can be changed either


def test_where_nobody_listens_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in ("engine.news.StepDetails", "engine.news.RunDetails", "worker.listening.Listener"):
        monkeypatch.setattr(f"celery_steps.{made}", None)
    assert one_step()() == 1


# -- receivers that misbehave -------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Nothing that `except Exception` catches."""


def calls_a_verb(sender: Any, **_: Any) -> None:
    sender.step.run("more", lambda: 1)


def changes_things(details: Any, **_: Any) -> None:
    current.set(None)
    details.key = "another"


def raises(error: BaseException) -> Callable[..., None]:
    def receiver(**_: Any) -> None:
        raise error

    return receiver


MISBEHAVIOUR = {
    "an exception": raises(ValueError("disk full")),
    "a BaseException": raises(Stop("disk full")),
    "CancelledError": raises(asyncio.CancelledError()),
    "GeneratorExit": raises(GeneratorExit()),
    "SystemExit": raises(SystemExit(3)),
    "Retry": raises(Retry()),
    "LeaseLost": raises(LeaseLost()),
    "a verb": calls_a_verb,
    "changes": changes_things,
}


@pytest.mark.parametrize("receiver", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_receiver_that_misbehaves_changes_nothing_and_is_reported_once(
    app: Celery, receiver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> str:
        for number in range(3):
            self.step.run("item", number, lambda number: number)
        with self.step.parallel() as p:
            p.map("branch", [1, 2], lambda number: number)
        return "done"

    heard = Heard()
    with connected(receiver, "step_executed"), connected(heard.receive):
        assert deliver(order, id="id-1").retval == "done"
    assert len(heard.of("step_executed")) == 5  # who is connected after it hears all the same
    assert heard.words[-1] == "run_finished succeeded"
    assert [record.key for record in Runs(app).records("id-1")] == ["item"] * 3 + ["branch"] * 2
    reports = [record for record in caplog.records if "of step_executed raised" in record.getMessage()]
    assert len(reports) == 1
    assert reports[0].exc_info is not None


@pytest.mark.parametrize("name", ["run_started", "run_suspended", "run_resumed", "step_replayed", "step_failed", "run_finished"])
def test_a_receiver_of_any_signal_may_raise(app: Celery, name: str, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> str:
        with suppress(ValueError):
            self.step.run("broken", refuse)
        self.step.wait_for_event("approved", timeout=3600)
        return "done"

    receiver = raises(Stop())
    with connected(receiver, name):
        deliver(order, id="id-1")
        Runs(app).emit("approved", 1, to="id-1")
        assert deliver(order, id="id-1", headers={TICKET: True}).retval == "done"
    assert app.AsyncResult("id-1").state == "SUCCESS"
    assert caplog.text.count(f"of {name} raised") == 1


@pytest.mark.parametrize(("hook", "end"), [("on_success", "SUCCESS"), ("on_failure", "FAILURE"), ("after_return", "SUCCESS")])
@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # how Celery reports it
def test_a_hook_of_the_task_that_raises_keeps_no_run_from_its_end(app: Celery, heard: Heard, hook: str, end: str) -> None:
    def broken(self: DurableTask, *_: Any) -> None:
        raise OSError("disk full")

    @app.task(name="order", bind=True, base=DurableTask, **{hook: broken})
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        if end == "FAILURE":
            raise ValueError("no")

    with suppress(OSError):  # Celery calls a hook that raised once more, and then lets it through
        deliver(order, id="id-1")
    assert app.AsyncResult("id-1").state == end
    assert heard.words[-1] == f"run_finished {'succeeded' if end == 'SUCCESS' else 'failed'}"
    assert Runs(app).get("id-1").status == ("succeeded" if end == "SUCCESS" else "failed")


def test_an_interrupt_of_the_process_in_a_receiver_goes_on() -> None:
    with connected(raises(KeyboardInterrupt()), "step_executed"), pytest.raises(KeyboardInterrupt):
        one_step()()


def test_a_soft_time_limit_in_a_receiver_is_the_bodys() -> None:
    app, limit = app_of_its_own("limited"), [SoftTimeLimitExceeded()]

    @app.task(bind=True, base=DurableTask)
    def order(self: DurableTask) -> str:
        try:
            self.step.run("one", lambda: 1)
        except SoftTimeLimitExceeded:
            return self.step.run("two", lambda: "in time")
        return "too late"

    def receiver(**_: Any) -> None:
        if limit:
            raise limit.pop()

    with connected(receiver, "step_executed"):
        assert order() == "in time"


def test_a_greenlet_is_ended_in_a_receiver_too() -> None:
    greenlet = pytest.importorskip("greenlet")
    receiver = raises(greenlet.GreenletExit())
    with connected(receiver, "step_executed"), pytest.raises(greenlet.GreenletExit):
        one_step()()


def test_logging_that_raises_as_the_receiver_did_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    telling._complained.clear()
    broken, receiver = Broken(), raises(ValueError())
    logging.getLogger("celery_steps").addHandler(broken)
    try:
        with connected(receiver, "step_executed"):
            assert one_step()() == 1
    finally:
        logging.getLogger("celery_steps").removeHandler(broken)
    assert capfd.readouterr().err.count("disk full") == 1


def test_an_error_whose_text_raises_is_told_by_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    problem = Problem.of(Mute())
    assert problem.type.endswith("Mute")
    assert problem.message == "<its text raised RuntimeError>"
