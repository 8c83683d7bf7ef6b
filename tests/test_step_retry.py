"""`retry=` and `timeout=`: a step's own retries, counted in the journal, and the time it may take."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from runs.outside import store_of

from celery_steps import DurableTask, RetryPolicy, Runs, StepsError, StepTimeout, current_step
from celery_steps.engine.retry import RetryPolicy as Policy
from delivering import deliver, make_app, namespace_fields
from servers import RedisServer, wait_until

NOW = RetryPolicy(max_retries=3, delay=0)
LATER = RetryPolicy(max_retries=3, delay=1.1, jitter=False)
TICKET = {"headers": {"steps_ticket": True}}


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    return make_app(redis_server)


class Flaky:
    """Fails so many times."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: ConnectionError("no route")) -> None:
        self.failures, self.error = failures, error
        self.tries: list[int] = []

    def __call__(self) -> str:
        self.tries.append(current_step().try_number)
        if len(self.tries) <= self.failures:
            raise self.error()
        return "paid"


def charging(app: Celery, handler: Callable[[], Any], **options: Any) -> Any:
    @app.task(bind=True, base=DurableTask, name=f"shop.charge{len(app.tasks)}")
    def charge(self: DurableTask) -> Any:
        return self.step.run("charge", handler, **options)

    return charge


def test_a_failed_step_is_tried_again_and_its_tries_are_counted(app: Celery) -> None:
    flaky = Flaky(2)
    assert deliver(charging(app, flaky, retry=NOW), id="id-1").retval == "paid"
    assert flaky.tries == [1, 2, 3]


def test_a_whole_number_is_so_many_retries(app: Celery) -> None:
    assert Policy.of(3).max_retries == 3
    flaky = Flaky(1)
    assert deliver(charging(app, flaky, retry=1), id="id-1").retval == "paid"


def test_exhausted_the_last_error_is_the_outcome_on_every_replay(app: Celery) -> None:
    flaky = Flaky(9)

    @app.task(bind=True, base=DurableTask, name="shop.charge")
    def charge(self: DurableTask, then: str) -> str:
        try:
            self.step.run("charge", flaky, retry=RetryPolicy(max_retries=2, delay=0))
        except ConnectionError as error:
            if then == "wait":
                self.step.sleep("a while", 600)
            return str(error)
        return "paid"

    deliver(charge, "wait", id="id-1")
    assert flaky.tries == [1, 2, 3]
    Runs(app).pause("id-1")
    Runs(app).unpause("id-1")  # brings it back before its time
    assert deliver(charge, "go on", id="id-1", **TICKET).retval == "no route"
    assert flaky.tries == [1, 2, 3], "the recorded error was raised again"
    assert next((r.key, r.status) for r in Runs(app).records("id-1")) == ("charge", "failed")


def test_a_long_pause_frees_the_worker_and_the_count_goes_on(app: Celery) -> None:
    flaky = Flaky(1)
    charge = charging(app, flaky, retry=LATER)
    deliver(charge, id="id-1")
    run = Runs(app).get("id-1")
    assert (run.status, run.waiting) == ("suspended", "retry of 'charge' (occurrence 1)")
    assert run.wake_at is not None
    assert charge.AsyncResult("id-1").info["waiting_for"] == "retry"
    deliver(charge, id="id-1", **TICKET)
    assert flaky.tries == [1], "too early: it waits on"
    wait_until(lambda: deliver(charge, id="id-1", **TICKET).retval == "paid", timeout=10)
    assert flaky.tries == [1, 2]


def test_a_crash_in_the_handler_counts_as_a_try(app: Celery) -> None:
    tries: list[int] = []

    def handler() -> None:
        tries.append(current_step().try_number)
        if len(tries) == 1:
            raise KeyboardInterrupt  # the process is being ended: nothing is recorded
        raise ConnectionError("no route")

    charge = charging(app, handler, retry=RetryPolicy(max_retries=1, delay=0))
    with pytest.raises(KeyboardInterrupt):
        deliver(charge, id="id-1")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("id-1").run, "lease", "0")
    assert isinstance(deliver(charge, id="id-1", redelivered=True).retval.exception, ConnectionError)
    assert tries == [1, 2]


def test_errors_are_filtered(app: Celery) -> None:
    policy = RetryPolicy(delay=0, on=(OSError,), unless=(ConnectionRefusedError,))
    for error, tries in ((OSError, 4), (ConnectionRefusedError, 1), (ValueError, 1)):
        flaky = Flaky(9, error)
        deliver(charging(app, flaky, retry=policy), id=error.__name__)
        assert len(flaky.tries) == tries


def test_a_celery_retry_begins_the_count_anew(app: Celery) -> None:
    flaky = Flaky(3)

    @app.task(bind=True, base=DurableTask, name="shop.charge", autoretry_for=(ConnectionError,), max_retries=3)
    def charge(self: DurableTask) -> str:
        return self.step.run("charge", flaky, retry=RetryPolicy(max_retries=1, delay=0))

    deliver(charge, id="id-1")
    assert len(flaky.tries) == 2
    fields = namespace_fields(app, "id-1")
    assert [value for name, value in fields.items() if name.endswith(":status")] == ["retrying"]
    Runs(app).pause("id-1")
    Runs(app).unpause("id-1")
    assert deliver(charge, id="id-1", retries=1, **TICKET).retval == "paid"
    assert flaky.tries == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_retries": -1}, "max_retries must be a whole number from 0, not -1"),
        ({"max_retries": True}, "max_retries must be a whole number"),
        ({"delay": "soon"}, "delay must be seconds"),
        ({"delay": 120}, r"delay \(120 s\) is longer than its max_delay \(60 s\)"),
        ({"backoff": 0.5}, "backoff must be a number from 1"),
        ({"on": OSError}, "on must be a tuple of exception classes"),
        ({"unless": (KeyboardInterrupt,)}, "unless must be a tuple of exception classes"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(StepsError, match=text):
        RetryPolicy(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry": "often"}, "retry must be how many retries, or a RetryPolicy"),
        ({"retry": 3, "namespace": "other"}, "retry= works in the run's own namespace only"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": "soon"}, "timeout must be seconds"),
        ({"at_most_once": True, "retry": 3}, "never tried twice"),
        ({"at_most_once": True, "namespace": "other"}, "own namespace only"),
        ({"reconcile": print}, "only at_most_once=True makes"),
        ({"at_most_once": True, "reconcile": "ask"}, "reconcile must be callable"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_handler(app: Celery, options: dict[str, Any], text: str) -> None:
    flaky = Flaky(0)
    error = deliver(charging(app, flaky, **options), id="id-1").retval.exception
    assert isinstance(error, StepsError)
    assert re.search(text, str(error))
    assert flaky.tries == []
    assert namespace_fields(app, "id-1") == {}


def test_delays_grow_to_the_longest_and_jitter_takes_from_their_upper_half() -> None:
    even = RetryPolicy(max_retries=9, delay=1, backoff=3, max_delay=10, jitter=False)
    assert [even.pause(n, OSError()) for n in range(1, 5)] == [1, 3, 9, 10]
    uneven = RetryPolicy(max_retries=9, delay=8)
    assert all(4 <= (uneven.pause(1, OSError()) or 0) <= 8 for _ in range(50))
    assert RetryPolicy(max_retries=10_000, backoff=900).pause(9_000, OSError()) is not None
    assert even.pause(10, OSError()) is None


# -- timeout ------------------------------------------------------------------------------------------------------------


def test_a_handler_that_takes_too_long_is_given_up_and_its_late_result_goes_nowhere(app: Celery) -> None:
    over, late = threading.Event(), []

    def slow() -> str:
        over.wait(20)
        late.append(True)
        return "late"

    error = deliver(charging(app, slow, timeout=0.05), id="id-1").retval.exception
    assert isinstance(error, StepTimeout)
    assert "Step 'charge' did not end within 0.05 s" in str(error)
    over.set()
    wait_until(lambda: bool(late))
    assert [record for record in Runs(app).records("id-1") if record.status == "done"] == []


def test_an_async_handler_is_cancelled_at_its_timeout(app: Celery) -> None:
    cancelled: list[bool] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    assert isinstance(deliver(charging(app, slow, timeout=0.05), id="id-1").retval.exception, StepTimeout)
    assert cancelled == [True]


def test_a_handler_in_time_has_its_result_its_error_and_its_step(app: Celery) -> None:
    assert deliver(charging(app, lambda: current_step().key, timeout="1h"), id="id-1").retval == "charge"
    assert isinstance(deliver(charging(app, Flaky(1), timeout=60), id="id-2").retval.exception, ConnectionError)


def test_a_timeout_is_tried_again_like_any_error(app: Celery) -> None:
    over, tries = threading.Event(), []

    def slow_at_first() -> str:
        tries.append(1)
        if len(tries) == 1:
            over.wait(20)
        return "paid"

    assert deliver(charging(app, slow_at_first, timeout=0.2, retry=NOW), id="id-1").retval == "paid"
    over.set()
