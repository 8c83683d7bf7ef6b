"""The doctor: every finding says what is wrong and the one thing to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, Runs
from celery_steps.doctor import Finding
from celery_steps.store.index import Index
from celery_steps.store.server import Server
from celery_steps.worker import runtime
from delivering import app_of_its_own, deliver
from runs.outside import make_due, store_of
from servers import RedisServer, free_port


def durable_app(server: RedisServer, **settings: Any) -> Celery:
    app = app_of_its_own("shop", broker=server.url(0), backend=server.url(1))
    app.conf.update(steps_backend=server.url(2), **settings)

    @app.task(base=DurableTask, name="shop.greet")
    def greet() -> None:
        pass

    return app


def examined(app: Celery) -> list[Finding]:
    return Runs(app).doctor()


def wrong(app: Celery) -> list[Finding]:
    return [finding for finding in examined(app) if finding.level != "ok"]


def with_info(monkeypatch: pytest.MonkeyPatch, **fields: str) -> None:
    """INFO says this as well."""
    info = Server.info
    monkeypatch.setattr(Server, "info", lambda server: info(server) | fields)


@pytest.fixture
def durable_redis(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis(appendonly=True)


@pytest.fixture
def app(durable_redis: RedisServer) -> Celery:
    return durable_app(durable_redis)


def test_nothing_is_wrong_with_a_fine_server(app: Celery) -> None:
    findings = examined(app)
    assert [finding for finding in findings if finding.level != "ok" or finding.do] == []
    assert any("appendfsync everysec" in finding.what for finding in findings)
    assert any("shop.greet" in finding.what for finding in findings)


def test_the_doctor_changes_nothing(app: Celery) -> None:
    examined(app)
    assert store_of(app).client.call("DBSIZE") == 0


def test_no_persistence_is_a_warning(start_redis: Callable[..., RedisServer]) -> None:
    (finding,) = wrong(durable_app(start_redis()))
    assert finding.level == "warning"
    assert "no persistence" in finding.what
    assert finding.do == "turn on appendonly"


def test_snapshots_alone_are_a_warning(start_redis: Callable[..., RedisServer]) -> None:
    (finding,) = wrong(durable_app(start_redis(options=("--save", "900 1"))))
    assert finding.level == "warning"
    assert "only snapshots" in finding.what


def test_an_evicting_policy_is_an_error(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(appendonly=True, options=("--maxmemory-policy", "allkeys-lru"))
    (finding,) = wrong(durable_app(server))
    assert finding.level == "error"
    assert "allkeys-lru" in finding.what
    assert finding.do.startswith("set it to noeviction")


def test_an_old_server_is_an_error(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with_info(monkeypatch, redis_version="6.0.16")
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert "is version 6.0.16" in finding.what
    assert finding.do.startswith("upgrade it")


@pytest.mark.parametrize(
    ("info", "level", "what"),
    [
        ({"role": "slave"}, "error", "is a replica"),
        ({"aof_last_write_status": "err"}, "error", "cannot write to its disk"),
        ({"maxmemory": "1000", "used_memory": "950"}, "warning", "95% of maxmemory"),
    ],
)
def test_what_info_says_is_heard(
    app: Celery, monkeypatch: pytest.MonkeyPatch, info: dict[str, str], level: str, what: str
) -> None:
    with_info(monkeypatch, **info)
    (finding,) = wrong(app)
    assert finding.level == level
    assert what in finding.what
    assert finding.do


def test_replicas_are_told_of_with_what_a_failover_loses(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with_info(monkeypatch, connected_slaves="2")
    assert any("2 replicas" in finding.what and "failover" in finding.what for finding in examined(app))


def test_a_server_that_hides_info_is_a_warning(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "info", lambda server: {})
    (finding,) = wrong(app)
    assert "does not answer INFO" in finding.what


def test_an_unreachable_redis_is_an_error(durable_redis: RedisServer) -> None:
    app = durable_app(durable_redis, steps_lease_ttl=0.1)
    port = free_port()
    app.conf.steps_backend = f"redis://:secret@127.0.0.1:{port}/0"
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert f"127.0.0.1:{port}/0" in finding.what
    assert "secret" not in finding.what
    assert finding.do == "start it, or correct steps_backend"


def test_a_changed_partition_count_is_an_error(durable_redis: RedisServer, app: Celery) -> None:
    Server(store_of(app)).check()
    (finding,) = wrong(durable_app(durable_redis, steps_partitions=8))
    assert finding.level == "error"
    assert finding.do.startswith("set it back to 16")


def test_data_of_a_newer_version_is_an_error(app: Celery) -> None:
    store_of(app).client.call("HSET", "steps:meta", "schema", "99", "partitions", "16")
    (finding,) = wrong(app)
    assert finding.do == "upgrade this worker"


@pytest.mark.parametrize(
    ("settings", "named"), [({"steps_lease": 3}, "steps_lease_ttl"), ({"steps_partitions": 0}, "steps_partitions")]
)
def test_a_wrong_setting_is_an_error(durable_redis: RedisServer, settings: dict[str, Any], named: str) -> None:
    (finding,) = examined(durable_app(durable_redis, **settings))
    assert finding.level == "error"
    assert named in finding.what


def test_sharing_the_brokers_database_is_a_warning(app: Celery, durable_redis: RedisServer) -> None:
    app.conf.broker_url = durable_redis.url(2)
    (finding,) = wrong(app)
    assert finding.level == "warning"
    assert finding.do == "give steps_backend a database of its own"


def test_a_clock_that_differs_is_a_warning(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Index.now
    monkeypatch.setattr(Index, "now", lambda index: now(index) - 3_600_000)
    (finding,) = wrong(app)
    assert "is 59 min" in finding.what or "is 1 h" in finding.what
    assert "behind" in finding.what


def test_an_app_without_durable_tasks_is_a_warning(durable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery._state._on_app_finalizers", set())  # @shared_task of other tests
    app = app_of_its_own("empty", broker=durable_redis.url(0))
    app.conf.steps_backend = durable_redis.url(2)
    (finding,) = wrong(app)
    assert "no durable task" in finding.what


def test_a_task_module_that_cannot_be_imported_is_an_error(app: Celery) -> None:
    app.conf.imports = ("shop_that_is_not_there",)
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert "shop_that_is_not_there" in finding.what


def test_a_result_backend_that_is_down_is_an_error(durable_redis: RedisServer) -> None:
    app = durable_app(durable_redis, result_backend=f"redis://:secret@127.0.0.1:{free_port()}/1")
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert "result backend RedisBackend cannot be read" in finding.what
    assert "secret" not in finding.what


def test_overdue_tickets_are_a_warning(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.waiting")
    def waiting(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        raise self.retry(countdown=600)

    deliver(waiting, id="later")
    make_due(app, "later", "shop.waiting", late=3600)
    (finding,) = wrong(app)
    assert finding.level == "warning"
    assert "1 of 1 unfinished runs are due, the first for 1 h" in finding.what
    assert "start a worker of app 'shop'" in finding.do


def test_a_ticket_without_message_is_an_error(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.waiting")
    def waiting(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        raise self.retry(countdown=600)

    deliver(waiting, id="later")
    store = runtime.of(app).main_store
    store.client.call("DEL", store.keys.namespace("later").messages)
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert "cannot be delivered again: later" in finding.what
    assert finding.do == "send these tasks again"


def test_a_user_who_may_not_load_scripts_is_an_error(durable_redis: RedisServer) -> None:
    app = durable_app(durable_redis)
    with durable_redis.client() as client:
        client.acl_setuser("ann", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
    app.conf.steps_backend = durable_redis.url(2).replace("//", "//ann:x@")
    (finding,) = wrong(app)
    assert finding.level == "error"
    assert "scripts are refused" in finding.what
    assert "EVALSHA" in finding.do
