"""Workers and brokers fail while runs wait: every run ends, once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from celery.result import AsyncResult
from kombu import Connection

from servers import RabbitServer, RedisServer, wait_until
from worker.workers import BROKER, CELERY, STORE, Stage

_soft_shutdown = pytest.mark.skipif(CELERY < (5, 5), reason="Celery has a soft shutdown since 5.5")


# -- a process is killed ------------------------------------------------------------------------------------------------


_MOMENTS = ["suspending", "suspended", "resumed", "awake", "two"]


@pytest.fixture(scope="module")
def killed(module_stage: Stage) -> dict[str, AsyncResult]:
    """A run for each moment, whose process is killed there."""
    runs = {moment: module_stage.send("sleepers.nap", 1.3, moment) for moment in _MOMENTS}
    for moment, run in runs.items():
        module_stage.kill_in(run, moment)
        module_stage.open_gate(run)
    return runs


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_run_whose_process_is_killed_around_its_sleep_carries_on(
    stage: Stage, killed: dict[str, AsyncResult], moment: str
) -> None:
    """Before SUSPEND, after it, as the next attempt begins, as the sleep is recorded as over, in the step that follows."""
    result = killed[moment]
    assert stage.get(result) == ["one", "two"]
    stage.wait_until_settled(result, "succeeded")
    assert [stage.did(result).count(what) for what in ("one", "two")] == [1, 2 if moment == "two" else 1]


# -- every worker is killed, the broker loses everything ----------------------------------------------------------------

_CAUGHT = {"before": "suspending", "behind": "suspended", "resuming": "resumed"}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, dict[str, AsyncResult]]]:
    """Runs wait in every way; all workers are killed; events come; the broker is flushed; times pass; a worker starts."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    stage = Stage(server, tmp_path_factory.mktemp("night"))
    try:
        worker = stage.start(concurrency=3)
        runs = {
            "asleep": stage.send("sleepers.nap", 4),
            "awaiting": stage.send("sleepers.await_event", "told"),
            "awaiting later": stage.send("sleepers.await_event", "told"),
            "deadline": stage.send("sleepers.await_event", "never", 3),
            "late": stage.send("sleepers.await_event", "late", 3),
            "retrying": stage.send("sleepers.retry_and_nap", 4),
        }
        for name, run in runs.items():
            stage.wait_until_known(run, "retrying" if name == "retrying" else "suspended")
        deadline = datetime.fromisoformat(runs["late"].info["until"]).timestamp()
        for name, moment in _CAUGHT.items():
            runs[name] = stage.send("sleepers.nap", 1.1, moment)
        for name, moment in _CAUGHT.items():
            stage.wait_for(runs[name], moment)
            stage.open_gate(runs[name])
        worker.kill()
        stage.runs.emit("told", "early", to=runs["awaiting"].id)
        server.flushdb(BROKER)
        stage.runs.emit("told", "later", to=runs["awaiting later"].id)
        wait_until(lambda: datetime.now().timestamp() > deadline + 0.1)
        stage.runs.emit("late", "too late", to=runs["late"].id)
        stage.start(concurrency=3)
        yield stage, runs
        stage.assert_nothing_left()
    finally:
        stage.end()
        server.stop()


def _effects(stage: Stage, run: AsyncResult) -> dict[str, int]:
    counts = Counter(stage.did(run))
    return {what: counts[what] for what in ("one", "two", "event", "timeout") if counts[what]}


@pytest.mark.parametrize("name", ["asleep", *_CAUGHT])
def test_a_sleeper_outlives_its_worker_and_the_broker(night: tuple[Stage, dict[str, AsyncResult]], name: str) -> None:
    stage, runs = night
    assert stage.get(runs[name]) == ["one", "two"]
    assert _effects(stage, runs[name]) == {"one": 1, "two": 1}


@pytest.mark.parametrize(("name", "data"), [("awaiting", "early"), ("awaiting later", "later")])
def test_an_event_that_is_sent_while_no_worker_runs_is_taken(
    night: tuple[Stage, dict[str, AsyncResult]], name: str, data: str
) -> None:
    stage, runs = night
    assert stage.get(runs[name]) == [data, "event"]
    assert _effects(stage, runs[name]) == {"event": 1}


@pytest.mark.parametrize("name", ["deadline", "late"])
def test_a_deadline_that_passes_while_no_worker_runs_takes_its_branch_once(
    night: tuple[Stage, dict[str, AsyncResult]], name: str
) -> None:
    """Also where an event came after the deadline, before anybody looked."""
    stage, runs = night
    assert stage.get(runs[name]) == [None, "timeout"]
    assert _effects(stage, runs[name]) == {"timeout": 1}


def test_a_retry_outlives_its_worker_and_the_broker(night: tuple[Stage, dict[str, AsyncResult]]) -> None:
    stage, runs = night
    assert stage.get(runs["retrying"]) == 1
    assert _effects(stage, runs["retrying"]) == {"one": 1}


# -- brokers ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "classic", "quorum"])
def broker_stage(request: pytest.FixtureRequest, make_stage: Callable[..., Stage]) -> Stage:
    if request.param == "redis":
        return make_stage(broker_transport_options={"visibility_timeout": 2})
    if request.param == "quorum" and CELERY < (5, 5):
        pytest.skip("Celery knows quorum queues since 5.5")
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    kind = {"task_default_queue_type": "quorum"} if request.param == "quorum" else {}
    return make_stage(broker=server.url(), task_default_queue=request.node.name, **kind)  # one node for all tests


def test_runs_wait_outside_the_broker_and_outlive_their_worker(broker_stage: Stage) -> None:
    """Longer than the visibility timeout."""
    stage = broker_stage
    worker = stage.start()
    runs = [stage.send("sleepers.nap", 4), stage.send("sleepers.await_event", "told")]
    for run in runs:
        stage.wait_until_known(run, "suspended")
    _wait_until_the_queue_is_empty(stage)
    worker.kill()
    stage.runs.emit("told", 1, to=runs[1].id)
    stage.start()
    assert [stage.get(run) for run in runs] == [["one", "two"], [1, "event"]]
    assert [_effects(stage, run) for run in runs] == [{"one": 1, "two": 1}, {"event": 1}]
    for run in runs:
        stage.wait_until_settled(run, "succeeded")
        assert stage.fields(run)["attempts"] == "2"


def _wait_until_the_queue_is_empty(stage: Stage) -> None:
    if stage.broker.startswith("redis"):
        stage.wait_until_idle()
        return
    with Connection(stage.broker) as connection:
        queue = stage.app.amqp.queues[stage.app.conf.task_default_queue].bind(connection.default_channel)
        wait_until(lambda: queue.queue_declare(passive=True).message_count == 0)


# -- shutdowns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("warm", {}),
        ("cold", {}),
        pytest.param("soft", {"worker_soft_shutdown_timeout": 1.0}, marks=_soft_shutdown),
    ],
)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_shutdown_loses_neither_who_sleeps_nor_who_is_about_to(
    request: pytest.FixtureRequest, make_stage: Callable[..., Stage], broker: str, how: str, settings: dict[str, Any]
) -> None:
    if broker == "rabbitmq":
        server: RabbitServer = request.getfixturevalue("rabbitmq_server")
        settings = {**settings, "broker": server.url(), "task_default_queue": f"shutdown-{how}"}
    stage = make_stage(steps_lease_ttl=600, **settings)
    worker = stage.start()
    asleep = stage.send("sleepers.nap", 3)
    stage.wait_until_known(asleep, "suspended")
    leaving = stage.send("sleepers.nap", 1.2, "suspending")
    stage.wait_for(leaving, "suspending")
    worker.send(signal.SIGTERM if how == "warm" else signal.SIGQUIT)
    wait_until(lambda: "hutdown" in worker.text(), 10)  # a warm one lets it go, and suspend; a cold one ends it
    stage.open_gate(leaving)
    wait_until(worker.has_ended, 20, worker.text)
    stage.start()
    for run in (asleep, leaving):
        assert stage.get(run) == ["one", "two"]
        assert _effects(stage, run) == {"one": 1, "two": 1}
        stage.wait_until_settled(run, "succeeded")
        assert stage.fields(run).get("crashes", "0") == "0"


def test_no_ticket_is_left_of_runs_that_waited(night: tuple[Stage, dict[str, AsyncResult]]) -> None:
    stage, runs = night
    for run in runs.values():
        stage.wait_until_settled(run, "succeeded")
    with stage.server.client(STORE) as client:
        assert not list(client.scan_iter("steps:*:due:*"))
        assert not list(client.scan_iter("steps:*:waiting:*"))
