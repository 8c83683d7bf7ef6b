"""What can be wrong with a store, a record or a result: each has an error that names the thing, and recorded steps stay."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from celery.exceptions import Reject

from celery_steps import DurableTask, ResultError, SettingsError, StoreUnavailable, TooManyCrashes
from celery_steps.codec import pack
from celery_steps.settings import Settings
from celery_steps.store.client import Client
from celery_steps.store.server import Server
from celery_steps.store.store import Store
from celery_steps.worker import runtime
from celery_steps.worker.delivery import latest
from delivering import deliver, make_app, namespace_fields
from servers import RedisServer, free_port, wait_until


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    redis_server.flushdb(3)
    return Store(Settings(backend=redis_server.url(3)))


class InfoClient(Client):
    """Answers INFO with what the test says."""

    info: dict[str, str]

    def exchange(self, *commands: Any) -> list[Any]:
        if commands[0][0] == "INFO":
            return ["\r\n".join(f"{name}:{value}" for name, value in self.info.items()).encode()]
        return super().exchange(*commands)


def with_info(server: RedisServer, **info: str) -> Server:
    client = InfoClient(server.url(3))
    client.info = {"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": "1", **info}
    return Server(Store(Settings(backend=server.url(3)), client))


def test_a_fine_server_has_no_warnings(redis_server: RedisServer) -> None:
    redis_server.flushdb(3)
    assert with_info(redis_server).check() == []


def test_a_server_older_than_6_2_is_refused(redis_server: RedisServer) -> None:
    with pytest.raises(SettingsError, match=r"version 6\.0\.9.*6\.2 or newer"):
        with_info(redis_server, redis_version="6.0.9").check()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicting_policy_is_refused_and_the_risk_named(redis_server: RedisServer, policy: str) -> None:
    with pytest.raises(SettingsError, match=rf"{policy}.*would delete journals.*noeviction"):
        with_info(redis_server, maxmemory_policy=policy).check()


def test_no_persistence_is_warned_of(store: Store) -> None:
    (warning,) = Server(store).check()
    assert "no persistence" in warning


def test_a_changed_partition_count_is_refused(store: Store, redis_server: RedisServer) -> None:
    Server(store).check()
    with pytest.raises(SettingsError, match="set it back to 16"):
        Server(Store(Settings(backend=redis_server.url(3), partitions=8))).check()


def test_data_of_a_newer_version_is_refused(store: Store) -> None:
    store.client.call("HSET", store.keys.meta, "schema", "99", "partitions", "16")
    with pytest.raises(SettingsError, match=r"schema 99.*upgrade this worker"):
        Server(store).check()


def test_an_unreachable_redis_is_named_with_what_to_do() -> None:
    port = free_port()
    client = Client(f"redis://:secret@127.0.0.1:{port}/0", patience=0.05)
    with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port}/0.*Start it, or correct steps_backend") as caught:
        client.call("PING")
    assert "secret" not in str(caught.value)


def test_an_unreachable_redis_sends_the_message_back_to_the_broker(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("k", pytest.fail)

    result = deliver(task, id="id-1")
    assert isinstance(result.info.retval, Reject)
    assert result.info.retval.requeue
    assert app.AsyncResult("id-1").state == "PENDING"


def test_an_early_acknowledged_message_is_published_again_when_redis_is_unreachable(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"

    @app.task(bind=True, base=DurableTask, acks_late=False)
    def task(self: DurableTask) -> None:
        self.step.run("k", pytest.fail)

    deliver(task, id="id-1")
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=5)
        message.ack()
    assert message.headers["id"] == "id-1"


@pytest.fixture
def one_step(redis_server: RedisServer) -> tuple[Any, Store, list[int]]:
    """A task with one recorded step that then asks to be retried, its store, and the calls of the step."""
    app = make_app(redis_server)
    calls: list[int] = []

    @app.task(bind=True, base=DurableTask, name="t", max_retries=9)
    def task(self: DurableTask) -> int:
        value = self.step.run("k", lambda: calls.append(1) or 5)
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return value

    deliver(task, id="id-1")
    assert calls == [1]
    return task, runtime.of(app).store, calls


@pytest.mark.parametrize(
    ("data", "says"),
    [(pack([99, "k", 1]), "newer celery-steps.*upgrade this worker"), (b"\xc1damaged", "corrupt"), (b"", "corrupt")],
)
def test_a_record_that_cannot_be_read_is_named_before_any_effect(
    one_step: tuple[Any, Store, list[int]], data: bytes, says: str
) -> None:
    task, store, calls = one_step
    journal = store.keys.namespace("id-1").journal
    before = [entry for entry in store.entries("id-1") if entry.kind == "step"]
    store.client.call("XADD", journal, f"{before[-1].id.split('-')[0]}-99", "step", data)
    result = deliver(task, id="id-1", retries=1)
    assert result.info.state == "FAILURE"
    with pytest.raises(ResultError, match=says):
        raise result.info.retval
    assert calls == [1]
    assert [entry for entry in store.entries("id-1") if entry.kind == "step"][:1] == before


def test_a_result_that_celerys_serializer_cannot_encode_fails_the_task_and_keeps_its_steps(redis_server: RedisServer) -> None:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="t")
    def task(self: DurableTask) -> object:
        self.step.run("k", lambda: 1)
        return object()

    result = deliver(task, id="id-1")
    with pytest.raises(ResultError, match=r"result of t cannot be encoded.*result_serializer 'json'.*steps are intact"):
        raise result.info.retval
    store = runtime.of(app).store
    assert [entry.kind for entry in store.entries("id-1")] == ["attempt", "step", "finish"]
    assert namespace_fields(app, "id-1")["t/id-1/0:status"] == "failed"


def test_a_run_that_crashed_too_often_fails_and_names_the_step(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_max_crashes=2, steps_lease_ttl=0.05)

    @app.task(bind=True, base=DurableTask, name="t")
    def task(self: DurableTask) -> None:
        self.step.run("poison", sys.exit)  # stands for the end of the process

    store = runtime.of(app).store

    def lease_is_over() -> bool:
        seconds, _ = store.client.call("TIME")
        return int(store.fields("id-1")["lease"]) < int(seconds) * 1000

    for _ in range(2):
        with pytest.raises(SystemExit):
            deliver(task, id="id-1", redelivered=True)
        runtime.of(app).heartbeat.drop(latest.get().binding)  # it died with the process
        wait_until(lease_is_over)
    result = deliver(task, id="id-1", redelivered=True)
    with pytest.raises(TooManyCrashes, match=r"crashed 2 times.*in step 'poison' \(occurrence 1\).*steps_max_crashes is 2"):
        raise result.info.retval
    assert namespace_fields(app, "id-1")["t/id-1/0:status"] == "failed"
