"""Waiting outside a worker: nobody leaves, the time until then is skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, StepsError, step
from celery_steps.codec import Codec
from celery_steps.engine.event import Emission
from celery_steps.engine.memory import deliver, inboxes
from delivering import app_of_its_own
from engine.conftest import Calls, Run

DAY = 86_400


@pytest.fixture(autouse=True)
def awake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails whoever really sleeps, and leaves no event for the next test."""
    monkeypatch.setattr(time, "sleep", pytest.fail)
    inboxes.clear()
    yield
    inboxes.clear()


@pytest.fixture
def app() -> Celery:
    """It has no Redis: whoever asks for one fails."""
    return app_of_its_own("shop", broker="memory://", task_always_eager=True, steps_backend="redis://127.0.0.1:1/0")


def sent(data: Any, event: str = "paid", id: str = "event-1", to: str = "order-42") -> int:
    return deliver(Codec(), Emission(event, data, id, to))


# -- sleeps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [0, 0.5, "7d", timedelta(days=1000)])
def test_a_sleep_returns_at_once_and_is_recorded(run: Run, duration: Any) -> None:
    run.attempt(lambda: step.sleep("nap", duration))
    assert run.records == [("nap", 1)]


def test_after_a_sleep_it_is_so_much_later(run: Run) -> None:
    before = time.time() * 1000
    run.attempt(lambda: step.sleep("nap", "7d"))
    assert run.last is not None
    assert run.last.now_ms() >= before + 7 * DAY * 1000 - 1


def test_a_point_in_time_to_which_a_sleep_has_skipped_is_past(run: Run) -> None:
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)

    def body() -> None:
        step.sleep("nap", "2d")
        step.sleep_until("tomorrow", tomorrow)

    run.attempt(body)
    assert run.store.skipped_ms == 2 * DAY * 1000
    assert run.records == [("nap", 1), ("tomorrow", 1)]


def test_a_second_attempt_does_not_sleep_again(run: Run) -> None:
    work = Calls(ConnectionError("not now"))

    def body() -> None:
        step.sleep("nap", "1d")
        step.run("work", work)

    with pytest.raises(ConnectionError):
        run.attempt(body)
    skipped = run.store.skipped_ms
    work.outcome = 1
    run.attempt(body)
    assert run.store.skipped_ms == skipped
    assert len(work) == 2


# -- events -------------------------------------------------------------------------------------------------------------


def test_an_event_that_was_given_before_is_taken_once(run: Run) -> None:
    assert sent({"by": "ann"}) == 0  # nobody waits outside a worker
    got = run.attempt(lambda: [step.wait_for_event("paid"), step.wait_for_event("paid", timeout="1h")])
    assert got == [{"by": "ann"}, None]
    assert run.records == [("paid", 1), ("paid", 2)]


def test_a_replay_gives_what_was_recorded_and_takes_no_other_event(run: Run) -> None:
    sent({"by": "ann"})
    first = run.attempt(lambda: step.wait_for_event("paid"))
    sent({"by": "bob"}, id="event-2")
    assert run.attempt(lambda: step.wait_for_event("paid")) == first == {"by": "ann"}
    assert len(inboxes["order-42"]) == 1


def test_the_first_that_matches_is_taken_and_the_others_stay(run: Run) -> None:
    sent({"order": 1}, id="event-1")
    sent({"order": 2}, id="event-2")
    sent({"order": 2}, event="shipped", id="event-3")
    assert run.attempt(lambda: step.wait_for_event("wait", "paid", match={"order": 2})) == {"order": 2}
    assert [event.event_id for event in inboxes["order-42"]] == ["event-1", "event-3"]


def test_an_event_that_is_given_twice_with_the_same_id_is_kept_once(run: Run) -> None:
    sent({})
    sent({})
    assert len(inboxes["order-42"]) == 1


def test_an_event_to_another_namespace_is_not_taken(run: Run) -> None:
    sent({}, to="order-43")
    assert run.attempt(lambda: step.wait_for_event("paid", timeout="1h")) is None


def test_a_deadline_returns_none_at_once(run: Run) -> None:
    until = datetime.now(timezone.utc) + timedelta(days=30)
    both = run.attempt(lambda: [step.wait_for_event("paid", timeout="1d"), step.wait_for_event("paid", until=until)])
    assert both == [None, None]
    assert run.store.skipped_ms >= 29 * DAY * 1000


@pytest.mark.parametrize("until", [0, "1969-07-20T20:17:40Z", "2020-01-01T00:00:00+00:00"])
def test_a_deadline_in_the_past_has_passed(run: Run, until: Any) -> None:
    sent({})  # it came too late
    assert run.attempt(lambda: step.wait_for_event("paid", until=until)) is None


def test_without_a_deadline_the_wait_says_what_to_do_and_records_nothing(run: Run) -> None:
    def body() -> str:
        with pytest.raises(StepsError, match="nobody can send the event 'paid' while this runs: send it before"):
            step.wait_for_event("wait", "paid")
        return step.run("instead", lambda: "posted")

    assert run.attempt(body) == "posted"
    assert run.records == [("instead", 1)]


def test_of_several_waits_each_comes_to_its_own_end(run: Run) -> None:
    sent({"by": "ann"})

    def body() -> list[Any]:
        with step.parallel() as p:
            futures = [p.wait_for_event("paid"), p.wait_for_event("shipped", timeout="1d"), p.sleep("nap", "2d")]
        return [future.result() for future in futures]

    assert run.attempt(body) == [{"by": "ann"}, None, None]
    assert run.store.skipped_ms >= 2 * DAY * 1000 - 1000


# -- through Celery -----------------------------------------------------------------------------------------------------


def waiting(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="wait", namespace="order-{order}")
    def wait(self: DurableTask, order: int) -> Any:
        self.step.sleep("cool-off", "1h")
        return self.step.wait_for_event("paid", timeout="24h")

    return wait


def paying(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="pay")
    def pay(self: DurableTask, order: int) -> int:
        return self.step.emit("tell", "paid", {"order": order}, to=f"order-{order}")

    return pay


@pytest.mark.parametrize("call", [lambda task: task(42), lambda task: task.apply((42,)).get(), lambda task: task.delay(42).get()])
def test_a_direct_call_apply_and_eager_mode_wait_without_redis(app: Celery, call: Any) -> None:
    assert call(waiting(app)) is None


def test_an_event_of_one_eager_task_is_there_for_the_next(app: Celery) -> None:
    wait = waiting(app)
    assert paying(app).delay(42).get() == 0
    assert wait.delay(43).get() is None
    assert wait.delay(42).get() == {"order": 42}


def test_a_broadcast_outside_a_worker_reaches_nobody(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="tell")
    def tell(self: DurableTask) -> int:
        return self.step.emit("tell", "paid")

    assert tell.delay().get() == 0
    assert waiting(app).delay(42).get() is None


def test_an_eager_retry_goes_on_behind_its_waits(app: Celery) -> None:
    waited: list[Any] = []

    @app.task(bind=True, base=DurableTask, name="t", namespace="order-42", max_retries=1)
    def task(self: DurableTask) -> None:
        waited.append(self.step.wait_for_event("paid", timeout="1d"))
        self.step.sleep("nap", "1d")
        if not self.request.retries:
            sent({"late": True})
            raise self.retry(countdown=0)

    task.delay()
    assert waited == [None, None]
