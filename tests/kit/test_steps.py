"""The fixture `steps`: durable tasks in this process, at virtual time."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import fakeredis
import pytest
from celery import Celery, chord, shared_task

from celery_steps import DurableTask, RetryPolicy, RunRefused, Runs, SettingsError, StepsError
from celery_steps.testing import Steps
from celery_steps.worker import runtime


@pytest.fixture(autouse=True)
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", pytest.fail)


# -- time ---------------------------------------------------------------------------------------------------------------


def test_a_run_goes_to_its_end_and_time_passes_as_it_needs_it(steps: Steps, fulfil: Any) -> None:
    began = steps.now
    assert steps.run(fulfil, 42) == "expired"
    assert steps.now - began == timedelta(hours=25)


def test_time_stands_still_until_it_is_advanced(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil, 42)
    began = steps.now
    order.advance("59m59s")
    (wait,) = order.waiting
    assert (order.status, wait.key, wait.until) == ("suspended", "cool-off", began + timedelta(hours=1))
    order.advance("1s")
    assert [wait.key for wait in order.waiting] == ["approval"]
    assert steps.now - began == timedelta(hours=1)


def test_what_falls_due_is_executed_at_its_time(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def poll(self: DurableTask) -> list[int]:
        times = []
        for _ in range(3):
            times.append(self.step.run("look", lambda: int(steps.now.timestamp())))
            self.step.sleep("pause", "10m")
        return times

    run = steps.start(poll).advance("1d")
    first = run.result[0]
    assert run.result == [first, first + 600, first + 1200]
    assert [record.occurred_at.timestamp() // 600 for record in run.records] == sorted(
        record.occurred_at.timestamp() // 600 for record in run.records
    )


def test_the_beginning_can_be_a_time_of_ones_own(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def until(self: DurableTask) -> None:
        self.step.sleep_until("new-year", "2031-01-01T00:00:00Z")

    with Steps(start="2030-12-31T23:00:00Z") as steps:
        steps.run(until)
        assert steps.now == datetime(2031, 1, 1, tzinfo=timezone.utc)


def test_retries_of_celery_and_of_a_step_wait_for_their_time(steps: Steps, app: Celery) -> None:
    tried: list[tuple[str, datetime]] = []

    def fails(what: str, times: int) -> str:
        tried.append((what, steps.now))
        if sum(name == what for name, _ in tried) <= times:
            raise OSError(what)
        return what

    @app.task(bind=True, base=DurableTask, max_retries=3)
    def fetch(self: DurableTask) -> str:
        self.step.run("own", lambda: fails("own", 2), retry=RetryPolicy(delay="1m", backoff=1, jitter=False))
        self.step.run("short", lambda: fails("short", 1), retry=RetryPolicy(delay=0.5, jitter=False))
        try:
            return self.step.run("celery", lambda: fails("celery", 1))
        except OSError as error:
            raise self.retry(exc=error, countdown=3600) from error

    run = steps.start(fetch)
    assert run.status == "suspended"
    assert run.finish().result == "celery"
    own, short, celery = ([at for name, at in tried if name == what] for what in ("own", "short", "celery"))
    assert [own[1] - own[0], own[2] - own[1]] == [timedelta(minutes=1)] * 2
    assert short[1] - short[0] == timedelta(seconds=0.5)
    assert celery[1] - celery[0] == timedelta(hours=1)
    assert run.calls == {"own": 3, "short": 2, "celery": 2}


# -- events, children, stubs --------------------------------------------------------------------------------------------


def test_events_are_sent_to_a_run_that_waits(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil, 42).advance("1h").emit("approval", {"by": "ann"})
    assert (order.status, order.state, order.result) == ("succeeded", "SUCCESS", "shipped for 4200")
    assert [(record.key, record.result) for record in order.records] == [
        ("price", 4200), ("cool-off", None), ("approval", {"by": "ann"}), ("ship", "shipped for 4200"),
    ]  # fmt: skip
    assert [(line.message, line.data) for line in order.logs] == [("approved", {"by": "ann"})]


def test_an_event_for_a_namespace_may_come_early(steps: Steps, fulfil: Any, app: Celery) -> None:
    steps.use(app)
    assert steps.emit("approval", {"by": "bob"}, to="order-42") == 0
    assert steps.run(fulfil, 42) == "shipped for 4200"


def test_an_answer_is_given_whenever_somebody_waits_for_it(steps: Steps, fulfil: Any) -> None:
    steps.answer("approval", {"by": "ann"})
    assert [steps.run(fulfil, number) for number in (1, 2)] == ["shipped for 100", "shipped for 200"]


def test_an_event_starts_the_tasks_that_it_triggers(steps: Steps, app: Celery) -> None:
    packed = []

    @app.task(bind=True, base=DurableTask, triggers=("order.paid",))
    def pack(self: DurableTask, paid: dict[str, int]) -> None:
        self.step.sleep("a-day", "1d")
        self.step.run("pack", lambda: packed.append(paid["order"]))

    steps.use(app)
    assert steps.emit("order.paid", {"order": 7}) == 1
    steps.advance("2d")
    assert packed == [7]


def test_children_run_here_too_durable_ones_plain_ones_and_whole_canvases(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def double(self: DurableTask, number: int) -> int:
        self.step.sleep("a-while", "1h")
        return self.step.run("double", number, lambda number: 2 * number)

    @app.task(bind=True, max_retries=2)
    def add(self: Any, *numbers: int) -> int:
        if self.request.retries == 0:
            raise self.retry(countdown=60)
        return sum(numbers)

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(bind=True, base=DurableTask)
    def parent(self: DurableTask) -> list[int]:
        with self.step.parallel() as p:
            one = p.run_task("double", double, (4,))
            two = p.run_task("add", add, (1, 2))
        return [one.result(), two.result(), self.step.run_task("all", chord([double.s(1), add.s(5)], total.s()))]

    began = steps.now
    assert steps.run(parent) == [8, 3, 7]
    assert timedelta(hours=2) <= steps.now - began < timedelta(hours=3)


def test_a_stub_stands_in_for_a_handler(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def pay(self: DurableTask, cents: int) -> Any:
        card = self.step.run("card", pytest.fail)
        try:
            return self.step.run("charge", (card, cents), pytest.fail)
        except ConnectionError:
            return self.step.run("apologise", pytest.fail)

    steps.stub("card", "4242")
    steps.stub("charge", lambda asked: f"charged {asked}")
    steps.stub("apologise", lambda: "sorry")
    paid = steps.start(pay, 5)
    assert paid.result == "charged ('4242', 5)"
    assert paid.calls == {"card": 1, "charge": 1}
    steps.stub("charge", ConnectionError("no line"))
    assert steps.run(pay, 5) == "sorry"


def test_a_stub_of_one_run_is_not_that_of_another(steps: Steps, fulfil: Any) -> None:
    one, other = steps.start(fulfil, 1).stub("ship", "by air"), steps.start(fulfil, 2)
    steps.answer("approval", {"by": "ann"})
    assert (one.finish().result, other.finish().result) == ("by air", "shipped for 200")


# -- ends ---------------------------------------------------------------------------------------------------------------


def test_a_failure_is_raised_and_told(steps: Steps, app: Celery) -> None:
    undone = []

    @app.task(bind=True, base=DurableTask)
    def travel(self: DurableTask) -> None:
        self.step.run("flight", lambda: "LH 1", rollback=undone.append)
        self.step.run("hotel", lambda: {}["rooms"])

    run = steps.start(travel)
    assert (run.status, repr(run.error), undone) == ("failed", "KeyError('rooms')", ["LH 1"])
    with pytest.raises(KeyError, match="rooms"):
        steps.run(travel)


def test_a_run_can_be_cancelled(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil, 42).cancel()
    assert (order.status, order.state, order.finished) == ("cancelled", "REVOKED", True)
    with pytest.raises(StepsError, match="was cancelled: it has no result"):
        _ = order.result
    with pytest.raises(RunRefused, match="is cancelled"):
        order.cancel()


def test_a_durable_task_without_a_step_leaves_no_trace_and_has_its_result(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def plain(self: DurableTask) -> str:
        return "done"

    run = steps.start(plain)
    assert (run.status, run.result, run.records, run.waiting, run.logs, run.run) == ("succeeded", "done", [], (), [], None)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_a_task_whose_result_nobody_wants_has_its_end_all_the_same(steps: Steps, app: Celery, fails: bool, durable: bool) -> None:
    @app.task(bind=True, base=DurableTask, ignore_result=True)
    def quiet(self: DurableTask) -> None:
        if durable:
            self.step.run("work", lambda: 1)
        if fails:
            raise LookupError("not found")

    run = steps.start(quiet)
    assert run.status == ("failed" if fails else "succeeded")
    if fails:
        assert isinstance(run.error, LookupError if durable else StepsError)
    else:
        assert run.result is None


def test_options_travel_with_a_signature(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil.s(42).set(namespace="again-42", task_id="one"))
    assert (order.id, order.namespace) == ("one", "again-42")


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_over_says_what_it_waits_for(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def patient(self: DurableTask) -> None:
        self.step.wait_for_event("yes", event="order.approved")

    with pytest.raises(
        StepsError, match=r"is not over: it is suspended; step.wait_for_event\('yes'\) waits for order.approved, for ever"
    ):
        steps.run(patient)
    with pytest.raises(StepsError, match="for ever"):
        _ = steps.start(patient).error


def test_an_event_that_nobody_waits_for_is_an_error(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil, 42)
    with pytest.raises(StepsError, match=r"waits for no event, not for 'approval': .*cool-off"):
        order.emit("approval", {"by": "ann"})
    order.advance("1h")
    with pytest.raises(StepsError, match="waits for the events approval, not for 'aproval'"):
        order.emit("aproval", {"by": "ann"})


def test_what_makes_no_sense_is_refused(steps: Steps, fulfil: Any, app: Celery) -> None:
    @app.task
    def plain() -> None: ...

    with pytest.raises(StepsError, match=r"'.*plain' is not durable: give it base=DurableTask"):
        steps.start(plain)
    with pytest.raises(StepsError, match="is not durable"):
        steps.crash_everywhere(plain.s())
    with pytest.raises(StepsError, match="is no task"):
        steps.start(lambda: None)
    with pytest.raises(StepsError, match="time goes forward only"):
        steps.advance(timedelta(seconds=-1))
    with pytest.raises(StepsError, match="advance must be seconds"):
        steps.advance("soon")
    with pytest.raises(StepsError, match="name the app first"):
        Steps().emit("approval", 1)
    with pytest.raises(StepsError, match="No app is in use"):
        Steps().runs()
    with pytest.raises(StepsError, match="key"):
        steps.stub(" ", 1)
    with pytest.raises(StepsError, match="None"):
        steps.answer("approval", None)
    with pytest.raises(StepsError, match="missing a required argument: 'order_id'"):
        steps.start(fulfil)


def test_a_setting_that_is_wrong_is_an_error_here_too(steps: Steps, app: Celery, fulfil: Any) -> None:
    app.conf.steps_lease_tll = 3
    with pytest.raises(SettingsError, match="did you mean steps_lease_ttl"):
        steps.start(fulfil, 42)
    assert app.conf.broker_url == "amqp://nowhere.invalid", "it is as it was"


def test_a_body_that_goes_on_for_ever_ends_with_an_error(steps: Steps, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_steps.testing.world._MOST", 20)

    @app.task(bind=True, base=DurableTask)
    def again(self: DurableTask) -> None:
        self.step.sleep("a-while", "1h")
        raise self.replace(self.s())

    with pytest.raises(StepsError, match="it goes on: advance time bit by bit"):
        steps.run(again)


def test_time_cannot_be_advanced_from_inside(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def impatient(self: DurableTask) -> None:
        self.step.run("hurry", lambda: steps.advance("1h"))

    with pytest.raises(StepsError, match="Advance time from the test"):
        steps.run(impatient)


def test_a_fakeredis_that_cannot_be_told_the_time_is_refused(steps: Steps, fulfil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_steps.testing.clock._Time.time", lambda self: 1.0)
    with pytest.raises(StepsError, match=r"does not tell the testing kit's time: install one that does"):
        steps.start(fulfil, 42)


# -- beside the world ---------------------------------------------------------------------------------------------------


def test_the_app_is_as_it_was_afterwards(app: Celery, fulfil: Any) -> None:
    app.conf.get("broker_url")
    before = dict(app.conf.changes), app.backend, app.amqp.__dict__.get("send_task_message"), runtime.of(app)
    with Steps(app) as steps, Steps() as inner:
        steps.start(fulfil, 1)
        inner.start(fulfil, 1)
        assert app.conf.broker_url == "memory://localhost/"
    assert (dict(app.conf.changes), app.backend, app.amqp.__dict__.get("send_task_message"), runtime.of(app)) == before


def test_another_fakeredis_keeps_the_time_of_day(steps: Steps, fulfil: Any) -> None:
    steps.run(fulfil, 42)
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as other:
        assert abs(other.time()[0] - time.time()) < 3600


def test_shared_tasks_and_tasks_of_another_app_run_too(steps: Steps, app: Celery, fulfil: Any) -> None:
    @shared_task(bind=True, base=DurableTask, name="kit.shared")
    def shared(self: DurableTask) -> str:
        return self.step.run_task("other", "shop.fulfil", (42,), queue="elsewhere")

    app.set_current()
    steps.use(app)
    assert steps.run(shared) == "expired"


def test_what_is_sent_to_nobody_here_is_kept_to_be_looked_at(steps: Steps, app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def tell(self: DurableTask) -> None:
        self.step.run("mail", lambda: app.send_task("mails.send", ("ann",)) and None)

    run = steps.start(tell)
    assert [(message.task, message.body[0]) for message in steps.sent.values() if message.id != run.id] == [
        ("mails.send", ["ann"])
    ]


def test_runs_looks_at_what_runs_here(steps: Steps, fulfil: Any) -> None:
    order = steps.start(fulfil, 42)
    runs = steps.runs()
    assert isinstance(runs, Runs)
    assert [run.id for run in runs.list().runs] == [order.id]
    runs.pause("order-42")
    steps.work()
    assert order.status == "paused"
    with pytest.raises(StepsError, match="paused until"):
        order.finish()
    runs.unpause("order-42")
    assert order.finish().result == "expired"
