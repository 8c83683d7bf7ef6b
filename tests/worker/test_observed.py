"""What others' tools see of runs on real workers: Celery's events, OpenTelemetry, Prometheus."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery.events.state import State
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from servers import RedisServer, wait_until
from worker.workers import Stage


class Monitor:
    """What Flower is: a receiver of events, and Celery's own picture of the tasks."""

    def __init__(self, stage: Stage) -> None:
        self.state = State()
        self.events: list[dict[str, Any]] = []
        self.states: dict[str, list[str]] = {}  # of each task, in order
        self._stage = stage
        self._connection = stage.app.connection_for_read()
        self._receiver = stage.app.events.Receiver(self._connection, handlers={"*": self._receive})
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._listening = threading.Event()

    def _listen(self) -> None:
        with self._receiver.consumer_context(wakeup=False) as (connection, _channel, _consumers):
            self._listening.set()
            while not self._receiver.should_stop:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)

    def _receive(self, event: dict[str, Any]) -> None:
        self.state.event(event)
        self.events.append(event)
        id = event.get("uuid")
        if id in self.state.tasks:
            seen = self.states.setdefault(id, [])
            if seen[-1:] != [self.state.tasks[id].state]:
                seen.append(self.state.tasks[id].state)

    def __enter__(self) -> Monitor:
        self._thread.start()
        self._listening.wait(10)
        return self

    def __exit__(self, *_: Any) -> None:
        self._receiver.should_stop = True
        self._thread.join()
        self._connection.close()

    def of(self, result: AsyncResult, type: str = "step-") -> list[str]:
        """The types of this run's events."""
        return [event["type"] for event in self.events if event.get("uuid") == result.id and event["type"].startswith(type)]

    def wait_for(self, result: AsyncResult, state: str) -> None:
        wait_until(lambda: self.states.get(result.id, [""])[-1] == state, 8, lambda: f"{self.states} {self._stage._tails()}")


@pytest.fixture(scope="module")
def module_stage(module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one prefork worker that tells everything to everyone."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "multiproc").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder / "multiproc"))
        stage = Stage(module_redis, folder, steps_lease_ttl=8)
        stage.start(concurrency=2, app="worker.observed", worker_send_task_events=True)
    yield stage
    stage.end()


@pytest.fixture
def monitor(stage: Stage) -> Iterator[Monitor]:
    with Monitor(stage) as monitor:
        yield monitor


# -- Celery's events ------------------------------------------------------------------------------------------------------


def test_a_monitor_sees_a_run_that_sleeps_and_is_killed_end_as_succeeded(stage: Stage, monitor: Monitor) -> None:
    result = stage.send("sleepers.nap", 1.2, "two")
    stage.wait_for(result, "two")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    monitor.wait_for(result, "SUCCESS")
    assert monitor.states[result.id] == ["RECEIVED", "STARTED", "SUCCESS"]
    assert monitor.of(result) == [
        "step-run-started",
        "step-executed",
        "step-run-suspended",
        "step-run-resumed",
        "step-executed",
        "step-run-resumed",
        "step-executed",
        "step-run-finished",
    ]
    (asleep,) = [event for event in monitor.events if event["type"] == "step-run-suspended"]
    assert asleep["waiting_for"] == ["sleep (nap)"]
    assert (asleep["task"], asleep["attempt"], asleep["status"]) == ("worker.sleepers.nap", 1, "suspended")


def test_a_monitor_sees_that_a_suspended_run_was_cancelled(stage: Stage, monitor: Monitor) -> None:
    result = stage.send("sleepers.nap", 3600)
    stage.wait_until_known(result, "suspended")
    stage.runs.cancel(result.id)
    monitor.wait_for(result, "REVOKED")
    with pytest.raises(TaskRevokedError):
        stage.get(result)
    assert monitor.states[result.id] == ["RECEIVED", "STARTED", "REVOKED"]
    assert monitor.of(result)[-1] == "step-run-finished"


def test_a_monitor_sees_a_retry_and_a_failure_as_celery_tells_them(stage: Stage, monitor: Monitor) -> None:
    retried = stage.send("sleepers.retry_and_nap", 0.2)
    failed = stage.send("sleepers.nap_and_fail", 1.1)
    monitor.wait_for(retried, "SUCCESS")
    monitor.wait_for(failed, "FAILURE")
    assert monitor.states[retried.id][-2:] != ["FAILURE", "SUCCESS"]
    assert "RETRY" in monitor.states[retried.id]
    assert monitor.states[failed.id] == ["RECEIVED", "STARTED", "FAILURE"]


def test_a_run_that_is_ended_from_outside_is_seen_as_revoked(stage: Stage, monitor: Monitor) -> None:
    result = stage.send("three", "two")
    stage.wait_for(result, "two")
    result.revoke(terminate=True)
    monitor.wait_for(result, "REVOKED")
    stage.wait_until_settled(result, "cancelled")
    # The main process keeps its own events for a moment, so that of the child may overtake them.
    assert set(monitor.states[result.id]) <= {"RECEIVED", "STARTED", "REVOKED"}
    wait_until(lambda: monitor.of(result)[-1] == "step-run-finished", 10)


def test_the_hard_time_limit_is_told_by_the_main_process(stage: Stage, monitor: Monitor) -> None:
    result = stage.send("three_limited", "two", namespace="limited")
    monitor.wait_for(result, "FAILURE")
    wait_until(lambda: monitor.of(result)[-1] == "step-run-finished", 10)
    (finished,) = [event for event in monitor.events if event["type"] == "step-run-finished"]
    assert (finished["status"], finished["namespace"], finished["attempt"]) == ("failed", "limited", 1)
    assert finished["exception"].startswith("billiard.exceptions.TimeLimitExceeded")
    stage.wait_until_settled(result, "failed", "limited")


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_events_are_sent_in_other_pools(make_stage: Callable[..., Stage], pool: str) -> None:
    stage = make_stage()
    with Monitor(stage) as monitor:
        stage.start(pool=pool, worker_send_task_events=True)
        result = stage.send("sleepers.nap", 1.1)
        monitor.wait_for(result, "SUCCESS")
    assert monitor.of(result)[:3] == ["step-run-started", "step-executed", "step-run-suspended"]
    assert monitor.of(result)[-1] == "step-run-finished"


def test_a_worker_without_task_events_sends_none(make_stage: Callable[..., Stage]) -> None:
    quiet = make_stage()
    with Monitor(quiet) as silent:
        quiet.start(pool="solo")
        assert quiet.get(quiet.send("three")) == ["one", "two", "three"]
    assert [event for event in silent.events if not event["type"].startswith("worker-")] == []


# -- OpenTelemetry --------------------------------------------------------------------------------------------------------


def spans(stage: Stage, result: AsyncResult) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (stage.folder / "spans").read_text().splitlines()]
    return [span for span in found if span["attributes"].get("celery_steps.run_id") == result.id]


def test_a_killed_run_has_a_span_for_each_step_and_linked_attempts(stage: Stage) -> None:
    result = stage.send("sleepers.nap", 1.2, "two")
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    stage.wait_until_settled(result, "succeeded")
    wait_until(lambda: len([span for span in spans(stage, result) if span["name"].startswith("attempt/")]) == 2, 10)
    found = spans(stage, result)
    steps = [span["name"] for span in found if span["name"].startswith("step/")]
    assert steps == ["step/one", "step/nap", "step/two"]
    # The attempt that was killed is not there: its span ended with its process.
    first, last = [span for span in found if span["name"] == "attempt/worker.sleepers.nap"]
    assert [first["attributes"][f"celery_steps.{name}"] for name in ("attempt", "status")] == [1, "suspended"]
    assert [last["attributes"][f"celery_steps.{name}"] for name in ("attempt", "status")] == [3, "succeeded"]
    assert first["links"] == []
    assert [link["context"]["span_id"] for link in last["links"]] == [first["context"]["span_id"]]
    assert first["parent_id"] is not None  # the delivery's, by Celery's own instrumentation
    parents = {span["name"]: span["parent_id"] for span in found}
    assert (parents["step/one"], parents["step/two"]) == (first["context"]["span_id"], last["context"]["span_id"])


# -- Prometheus -----------------------------------------------------------------------------------------------------------


def scraped(stage: Stage) -> dict[str, float]:
    port = json.loads((stage.folder / "metrics.json").read_text())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_the_metrics_of_all_processes_of_a_worker_are_there(stage: Stage) -> None:
    def count(name: str) -> float:
        return scraped(stage).get(name, 0)

    one = 'celery_steps_executed_total{key="one",task="worker.sleepers.await_event"}'
    result = stage.send("sleepers.await_event", "never", 3600)
    stage.wait_until_known(result, "suspended")
    suspended = 'celery_steps_runs_suspended_total{status="suspended",task="worker.sleepers.await_event"}'
    wait_until(lambda: count(suspended) == 1, 10)
    assert count(one) == 0
    now = scraped(stage)
    assert (now["celery_steps_store_up"], now['celery_steps_runs{status="suspended"}'], now["celery_steps_tickets"]) == (1, 1, 1)
    stage.runs.emit("never", 1)
    stage.get(result)
    finished = 'celery_steps_runs_finished_total{status="succeeded",task="worker.sleepers.await_event"}'
    wait_until(lambda: count(finished) == 1, 10)
    assert count('celery_steps_executed_total{key="event",task="worker.sleepers.await_event"}') == 1
    assert count('celery_steps_duration_seconds_count{key="event",task="worker.sleepers.await_event"}') == 1
    stage.wait_until_settled(result, "succeeded")
