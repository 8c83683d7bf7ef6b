"""`at_most_once=True`: no crash leads to a second call; what became of the first is asked, or said by an operator."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from click.testing import CliRunner
from runs.outside import store_of

from celery_steps import DurableTask, InDoubt, NotDone, RunRefused, Runs, StepFailed, StepsError
from celery_steps.cli import steps
from celery_steps.worker import control
from delivering import deliver, make_app, published
from servers import RedisServer

TICKET = {"headers": {"steps_ticket": True}}


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


class Bank:
    """Charges; its process dies in the middle of the first charges."""

    def __init__(self, deaths: int = 1, by: type[BaseException] = KeyboardInterrupt) -> None:
        self.deaths, self.by = deaths, by
        self.calls: list[Any] = []

    def charge(self, cents: int) -> str:
        self.calls.append(cents)
        if len(self.calls) <= self.deaths:
            raise self.by
        return f"charged {cents}"


def paying(app: Celery, bank: Bank, **options: Any) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.pay")
    def pay(self: DurableTask) -> str:
        return self.step.run("charge", 250, bank.charge, at_most_once=True, **options)

    return pay


def die(app: Celery, pay: Any, id: str = "id-1") -> None:
    """A delivery whose process ends inside the handler."""
    with pytest.raises(KeyboardInterrupt):
        deliver(pay, id=id)
    store_of(app).client.call("HSET", store_of(app).keys.namespace(id).run, "lease", "0")


def test_without_a_crash_it_is_a_step_like_any_other(app: Celery) -> None:
    bank = Bank(deaths=0)
    assert deliver(paying(app, bank), id="id-1").retval == "charged 250"
    assert bank.calls == [250]


def test_after_a_crash_the_run_waits_in_doubt_and_the_handler_is_not_called(app: Celery, runs: Runs) -> None:
    bank = Bank()
    pay = paying(app, bank)
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    run = runs.get("id-1")
    assert run.status == "in_doubt"
    assert run.waiting == "resolve of 'charge' (occurrence 1), which is in doubt"
    deliver(pay, id="id-1", **TICKET)
    assert bank.calls == [250]


@pytest.mark.parametrize(
    ("how", "outcome", "calls"),
    [
        ({"done": "charged by hand"}, "charged by hand", 1),
        ({"rerun": True}, "charged 250", 2),
    ],
)
def test_an_operator_says_what_became_of_it(app: Celery, runs: Runs, how: dict[str, Any], outcome: str, calls: int) -> None:
    bank = Bank()
    pay = paying(app, bank)
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    runs.resolve("id-1", **how)
    assert [message.headers["id"] for message in published(app)] == ["id-1"], "it carries on at once"
    assert deliver(pay, id="id-1", **TICKET).retval == outcome
    assert len(bank.calls) == calls
    assert runs.get("id-1").status == "succeeded"
    assert [(record.key, record.result) for record in runs.records("id-1")] == [("charge", outcome)]


def test_an_operator_says_that_it_failed(app: Celery, runs: Runs) -> None:
    bank = Bank()
    pay = paying(app, bank)
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    runs.resolve("id-1", failed="the bank knows nothing of it")
    error = deliver(pay, id="id-1", **TICKET).retval.exception
    assert isinstance(error, StepFailed)
    assert "the bank knows nothing of it" in str(error)
    assert bank.calls == [250]


def test_reconcile_finds_the_result(app: Celery, runs: Runs) -> None:
    bank, asked = Bank(), []

    def reconcile(cents: int, idempotency_key: str) -> str:
        asked.append((cents, idempotency_key))
        return "found at the bank"

    pay = paying(app, bank, reconcile=reconcile)
    die(app, pay)
    assert deliver(pay, id="id-1", redelivered=True).retval == "found at the bank"
    assert bank.calls == [250]
    ((cents, key),) = asked
    assert (cents, len(key)) == (250, 32)


def test_reconcile_finds_that_it_was_not_done(app: Celery) -> None:
    bank = Bank()

    def reconcile(cents: int, idempotency_key: str) -> str:
        raise NotDone

    pay = paying(app, bank, reconcile=reconcile)
    die(app, pay)
    assert deliver(pay, id="id-1", redelivered=True).retval == "charged 250"
    assert bank.calls == [250, 250]


def test_a_failure_is_its_outcome_whatever_celery_retries(app: Celery, runs: Runs) -> None:
    bank = Bank(by=ConnectionError)

    @app.task(bind=True, base=DurableTask, name="shop.pay", autoretry_for=(ConnectionError,), max_retries=3)
    def pay(self: DurableTask) -> str:
        return self.step.run("charge", 250, bank.charge, at_most_once=True)

    deliver(pay, id="id-1")
    assert runs.get("id-1").status == "retrying"
    runs.pause("id-1")
    runs.unpause("id-1")
    deliver(pay, id="id-1", retries=1, **TICKET)
    assert bank.calls == [250]


def test_a_soft_time_limit_in_the_handler_leaves_a_doubt(app: Celery, runs: Runs) -> None:
    bank = Bank(by=SoftTimeLimitExceeded)
    deliver(paying(app, bank), id="id-1")
    assert runs.get("id-1").status == "in_doubt"


def test_a_timeout_leaves_a_doubt(app: Celery, runs: Runs) -> None:
    over = threading.Event()

    @app.task(bind=True, base=DurableTask, name="shop.pay")
    def pay(self: DurableTask) -> None:
        self.step.run("charge", lambda: over.wait(20), at_most_once=True, timeout=0.05)

    deliver(pay, id="id-1")
    over.set()
    assert runs.get("id-1").status == "in_doubt"


@pytest.mark.parametrize("state", ["unknown", "running elsewhere", "finished"])
def test_what_is_not_in_doubt_cannot_be_resolved(app: Celery, runs: Runs, state: str) -> None:
    if state == "finished":
        deliver(paying(app, Bank(deaths=0)), id="id-1")
    elif state == "running elsewhere":
        die(app, paying(app, Bank()))
    with pytest.raises(RunRefused, match="There is no run" if state == "unknown" else "There is nothing to resolve"):
        runs.resolve("id-1", done=1)


def test_another_step_cannot_be_resolved(app: Celery, runs: Runs) -> None:
    pay = paying(app, Bank())
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    with pytest.raises(RunRefused, match=r"steps in doubt: 'charge' \(occurrence 1\)"):
        runs.resolve("id-1", "ship", done=1)
    with pytest.raises(StepsError, match="Say one of"):
        runs.resolve("id-1", done=1, rerun=True)
    with pytest.raises(StepsError, match="Say one of"):
        runs.resolve("id-1")


def test_of_two_operators_the_first_counts_and_the_second_is_told(
    app: Celery, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank()
    pay = paying(app, bank)
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    look = control._in_doubt

    def look_slowly(*where: Any) -> Any:
        found = look(*where)
        monkeypatch.undo()
        runs.resolve("id-1", rerun=True)
        return found

    monkeypatch.setattr(control, "_in_doubt", look_slowly)
    with pytest.raises(RunRefused, match="was resolved by somebody else a moment before"):
        runs.resolve("id-1", done="PAID")
    assert not [record for record in runs.records("id-1") if record.status == "done"]
    assert deliver(pay, id="id-1", **TICKET).retval != "PAID"


def test_a_doubt_can_be_cancelled(app: Celery, runs: Runs) -> None:
    pay = paying(app, Bank())
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)
    runs.cancel("id-1")
    deliver(pay, id="id-1", **TICKET)
    assert runs.get("id-1").status == "cancelled"


def test_resolve_on_the_command_line(app: Celery, runs: Runs) -> None:
    from types import SimpleNamespace

    pay = paying(app, Bank())
    die(app, pay)
    deliver(pay, id="id-1", redelivered=True)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(steps, ["resolve", "id-1", *arguments], obj=SimpleNamespace(app=app, no_color=True))

    assert run().exit_code == 2
    assert run("--done", "{not json").exit_code == 2
    assert run("--done", '"x"', "--rerun").exit_code == 2
    assert json.loads(run("--done", '{"charge": 1}', "--json").output) == {"asked": "resolve", "name": "id-1"}
    assert deliver(pay, id="id-1", **TICKET).retval == {"charge": 1}
    assert run("--rerun").exit_code == 1


def test_outside_a_worker_a_doubt_is_an_error() -> None:
    over = threading.Event()
    app = Celery("shop", set_as_current=False)

    @app.task(bind=True, base=DurableTask, shared=False)
    def pay(self: DurableTask) -> None:
        self.step.run("charge", lambda: over.wait(20), at_most_once=True, timeout=0.05)

    with pytest.raises(InDoubt, match="run it in a worker"):
        pay()
    over.set()
