"""What can be wrong with what a verb that waits is given, or with its place: the error says it, and nothing is half done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, NoActiveRun, ResultError, RunRefused, StepsError, step
from celery_steps.engine.entries import read_step
from celery_steps.engine.event import Emission
from celery_steps.errors import Suspended
from celery_steps.worker import events, runtime
from delivering import close, deliver, make_app, namespace_fields
from servers import RedisServer

DURATION = 'must be seconds, a timedelta or text such as "90s", "12h", "7d", "1h30m", not '
MOMENT = "must be an aware datetime, ISO 8601 text with an offset, or seconds since 1970, not "
NAMED = "an event's name must be text that is not blank, not "


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


def durable(app: Celery, body: Callable[[], Any], name: str = "t") -> Any:
    @app.task(name=name, base=DurableTask)
    def task() -> Any:
        return body()

    return task


def kinds(app: Celery) -> list[str]:
    """What the journal of id-1 holds."""
    return [entry.kind for entry in runtime.of(app).store.entries("id-1")]


def text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: step.sleep("nap", -1), f"StepsError: step.sleep('nap')'s duration {DURATION}-1."),
        (lambda: step.sleep("nap", float("nan")), f"{DURATION}nan."),
        (lambda: step.sleep("nap", float("inf")), f"{DURATION}inf."),
        (lambda: step.sleep("nap", 1e12), f"{DURATION}1000000000000.0."),
        (lambda: step.sleep("nap", timedelta(seconds=-1)), f"{DURATION}datetime.timedelta(days=-1, seconds=86399)."),
        (lambda: step.sleep("nap", "soon"), f"{DURATION}'soon'."),
        (lambda: step.sleep("nap", "1 hour"), f"{DURATION}'1 hour'."),
        (lambda: step.sleep("nap", ""), f"{DURATION}''."),
        (lambda: step.sleep("nap", True), f"{DURATION}True."),
        (lambda: step.sleep("nap", None), f"{DURATION}None."),
        (lambda: step.sleep(" ", 1), "A step's key must be text that is not blank, not ' ': the key comes first."),
        (lambda: step.sleep(60, "nap"), f"step.sleep(60)'s duration {DURATION}'nap'."),
        (lambda: step.sleep_until("dawn", datetime(2030, 1, 1)), "step.sleep_until('dawn')'s time has no time zone: write 2030-"),
        (lambda: step.sleep_until("dawn", "2030-01-01T00:00:00"), "has no time zone"),
        (lambda: step.sleep_until("dawn", "tomorrow"), f"step.sleep_until('dawn')'s time {MOMENT}'tomorrow'."),
        (lambda: step.sleep_until("dawn", float("nan")), f"{MOMENT}nan."),
        (lambda: step.sleep_until("dawn", -1), f"{MOMENT}-1."),
        (lambda: step.sleep_until("dawn", 253_402_300_800), f"{MOMENT}253402300800."),
        (lambda: step.sleep_until("dawn", timedelta(1)), f"{MOMENT}datetime.timedelta(days=1)."),
        (lambda: step.sleep_until(None, 0), "A step's key must be text that is not blank, not None"),
        (lambda: step.wait_for_event(""), f"step.wait_for_event(''): {NAMED}''."),
        (lambda: step.wait_for_event("", "paid"), "A step's key must be text that is not blank, not ''"),
        (lambda: step.wait_for_event("wait", "\n"), rf"step.wait_for_event('wait'): {NAMED}'\n'."),
        (lambda: step.wait_for_event("wait", 7), f"{NAMED}7."),
        (lambda: step.wait_for_event("wait", timeout="1x"), f"step.wait_for_event('wait')'s timeout {DURATION}'1x'."),
        (lambda: step.wait_for_event("wait", timeout=-0.5), f"{DURATION}-0.5."),
        (lambda: step.wait_for_event("wait", until=datetime(2030, 1, 1)), "step.wait_for_event('wait')'s until has no time zone"),
        (lambda: step.wait_for_event("wait", timeout=1, until=0), "step.wait_for_event('wait'): give timeout or until, not"),
        (lambda: step.wait_for_event("wait", match=["id"]), "match must be a dict of what the event's data must equal"),
        (lambda: step.wait_for_event("wait", match={"id": object()}), 'ResultError: step.wait_for_event(\'wait\')\'s match["'),
        (lambda: step.emit("tell", " "), f"step.emit('tell'): {NAMED}' '."),
        (lambda: step.emit("", "paid"), "A step's key must be text that is not blank, not ''"),
        (lambda: step.emit("tell", "paid", None), "step.emit('tell'): an event's data cannot be None, as that is what"),
        (lambda: step.emit("tell", "paid", {"id": [object()]}), 'ResultError: step.emit(\'tell\')\'s data["id"][0] is a object'),
        (lambda: step.emit("tell", "paid", "x" * 2_000_000), "steps_max_result_size"),
        (lambda: step.emit("tell", "paid", to=" "), "step.emit('tell')'s to must be text that is not blank, not ' '."),
        (lambda: step.emit("tell", "paid", to="n" * 513), "has 513 characters, at most 512 are allowed"),
        (lambda: step.emit("tell", "paid", to="order-7", app="shop"), "without to; given are app='shop' and to='order-7'."),
        (lambda: step.emit("tell", "paid", app=7), "app names the one Celery app whose tasks the event starts"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_is_recorded(app: Celery, call: Callable[[], Any], says: str) -> None:
    result = deliver(durable(app, call), id="id-1")
    assert says in text_of(result.info.retval)
    assert isinstance(result.info.retval, StepsError)
    assert kinds(app) == []


@pytest.mark.parametrize(
    ("wait", "until"),
    [
        (lambda: step.sleep_until("nap", 253_402_300_799), "9999-12-31T23:59:59+00:00"),
        (lambda: step.sleep_until("nap", "9999-12-31T23:59:59Z"), "9999-12-31T23:59:59+00:00"),
        (lambda: step.wait_for_event("nap"), None),
    ],
)
def test_the_longest_waits_are_suspended_and_told(app: Celery, wait: Callable[[], Any], until: str | None) -> None:
    deliver(durable(app, wait), id="id-1")
    result = app.AsyncResult("id-1")
    assert (result.state, result.info["key"], result.info["until"]) == ("SUSPENDED", "nap", until)
    assert kinds(app) == ["attempt", "wait", "suspend"]


def test_a_sleep_of_a_thousand_years_is_suspended(app: Celery) -> None:
    deliver(durable(app, lambda: step.sleep("nap", timedelta(days=365_000))), id="id-1")
    assert app.AsyncResult("id-1").state == "SUSPENDED"


def test_after_bad_input_that_is_caught_the_run_goes_on_as_if_it_had_not_been_given(app: Celery) -> None:
    def body() -> None:
        for bad in (-1, "soon", None):
            with pytest.raises(StepsError):
                step.sleep("nap", bad)
        step.sleep("nap", 0)

    assert deliver(durable(app, body), id="id-1").info is None
    (record,) = [read_step(entry) for entry in runtime.of(app).store.entries("id-1") if entry.kind == "step"]
    assert (record.key, record.sequence) == ("nap", 1)


VERBS: list[tuple[str, Callable[[], Any]]] = [
    ("sleep", lambda: step.sleep("inner", 60)),
    ("sleep_until", lambda: step.sleep_until("inner", "2099-01-01T00:00:00Z")),
    ("wait_for_event", lambda: step.wait_for_event("inner")),
    ("emit", lambda: step.emit("inner", "paid")),
]


@pytest.mark.parametrize(("verb", "call"), VERBS)
def test_inside_a_handler_is_no_place_for_it(app: Celery, verb: str, call: Callable[[], Any]) -> None:
    result = deliver(durable(app, lambda: step.run("outer", call)), id="id-1")
    assert type(result.info.retval) is StepsError
    assert f"step.{verb} inside a step's handler: a step is one unit. Call it from the task's body." in str(result.info.retval)
    assert kinds(app) == ["attempt", "finish"]


@pytest.mark.parametrize(("verb", "call"), VERBS)
def test_without_a_run_it_is_refused(verb: str, call: Callable[[], Any]) -> None:
    with pytest.raises(NoActiveRun, match="There is no active run here"):
        call()


@pytest.mark.parametrize(("verb", "call"), VERBS)
def test_in_a_thread_that_the_body_started_it_is_refused(app: Celery, verb: str, call: Callable[[], Any]) -> None:
    met: list[BaseException] = []

    def elsewhere() -> None:
        try:
            call()
        except NoActiveRun as error:
            met.append(error)

    def body() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    deliver(durable(app, body), id="id-1")
    assert len(met) == 1
    assert kinds(app) == []


@pytest.mark.parametrize("again", [call for _, call in VERBS] + [lambda: step.run("inner", pytest.fail)])
def test_a_body_that_swallowed_a_suspension_is_told_again(app: Celery, again: Callable[[], Any]) -> None:
    met: list[BaseException] = []

    def body() -> str:
        for call in (lambda: step.sleep("nap", 3600), again):
            try:
                call()
            except BaseException as error:
                met.append(error)
        return "done"

    result = deliver(durable(app, body), id="id-1")
    assert result.info.state == "IGNORED"
    assert [type(error) for error in met] == [Suspended, Suspended]
    assert kinds(app) == ["attempt", "wait", "suspend"]
    assert namespace_fields(app, "id-1")["t/id-1/0:status"] == "suspended"


# -- namespaces that are finished ---------------------------------------------------------------------------------------


@pytest.fixture
def finished(app: Celery) -> str:
    deliver(durable(app, lambda: step.run("pay", lambda: 1), name="order"), id="order-7")
    return "order-7"


REFUSED = "The event 'paid' was refused: every run of namespace 'order-7' is finished, so nobody would take it."


def test_an_event_to_a_finished_namespace_is_refused(app: Celery, finished: str) -> None:
    with pytest.raises(RunRefused) as caught:
        events.emit(app, Emission("paid", {}, "event-1", to=finished))
    assert str(caught.value).startswith(REFUSED)
    assert runtime.of(app).store.client.call("EXISTS", runtime.of(app).store.keys.namespace(finished).inbox) == 0


def test_a_step_that_sends_to_a_finished_namespace_fails_and_is_not_recorded_as_done(app: Celery, finished: str) -> None:
    result = deliver(durable(app, lambda: step.emit("tell", "paid", to=finished)), id="id-1")
    assert text_of(result.info.retval).startswith(f"RunRefused: {REFUSED}")
    assert kinds(app) == ["attempt", "finish"]


def test_a_body_may_catch_that_and_go_on_the_same_way_on_every_replay(app: Celery, finished: str) -> None:
    branches: list[str] = []

    def body(self: DurableTask) -> None:
        try:
            self.step.emit("tell", "paid", to=finished)
        except RunRefused as error:
            branches.append(str(error))
        self.step.run("instead", lambda: None)
        if not self.request.retries:
            raise self.retry(countdown=0)

    task = app.task(name="t", bind=True, base=DurableTask)(body)
    deliver(task, id="id-1")
    deliver(task, id="id-1", retries=1)
    assert len(branches) == 2
    assert branches[0] == branches[1]


def test_data_that_cannot_be_recorded_is_refused_by_the_outside_too(app: Celery) -> None:
    with pytest.raises(ResultError, match="the event's data"):
        events.emit(app, Emission("paid", {"id": object()}, "event-1", to="order-7"))
