"""The servers that the tests run on, and the checks that they share."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import psutil
import pytest
import redis
from amqp import Connection

from servers import RabbitServer, RedisServer, assert_no_leaks, wait_until


def test_a_redis_answers_on_every_database(redis_server: RedisServer) -> None:
    for database in (0, 63):
        with redis.Redis.from_url(redis_server.url(database)) as client:
            assert client.ping()


def test_flushing_a_database_leaves_the_others(redis_server: RedisServer) -> None:
    with redis_server.client(40) as flushed, redis_server.client(41) as kept:
        flushed.set("key", 1)
        kept.set("key", 1)
        redis_server.flushdb(40)
        assert (flushed.exists("key"), kept.exists("key")) == (0, 1)
        redis_server.flushdb(41)


@pytest.mark.parametrize(("appendonly", "kill"), [(False, False), (True, False), (True, True)])
def test_a_restarted_redis_has_its_data(start_redis: Callable[..., RedisServer], appendonly: bool, kill: bool) -> None:
    server = start_redis(appendonly=appendonly)
    with server.client() as client:
        client.set("key", "kept")
    port, pid = server.port, server.pid
    server.restart(kill=kill)
    assert server.port == port
    assert server.pid != pid
    with server.client(decode_responses=True) as client:
        assert client.get("key") == "kept"


def test_a_killed_redis_without_append_only_file_comes_back_empty(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as client:
        client.set("key", "lost")
    server.restart(kill=True)
    with server.client() as client:
        assert client.exists("key") == 0


def test_a_stopped_redis_leaves_no_process(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options=("--maxmemory-policy", "allkeys-lru"))
    with server.client(decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
    server.stop()
    assert not psutil.pid_exists(server.pid)


def test_a_rabbitmq_node_takes_connections(rabbitmq_server: RabbitServer) -> None:
    with Connection(f"127.0.0.1:{rabbitmq_server.port}") as connection:
        connection.connect()
        queue, _, _ = connection.channel().queue_declare(exclusive=True)
        assert queue.startswith("amq.gen")


def test_a_stopped_rabbitmq_node_leaves_no_process(
    rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    other = RabbitServer(tmp_path_factory.mktemp("other-rabbitmq"))
    started = {process.pid for process in psutil.Process().children(recursive=True)} - before
    other.stop()
    assert other.pid in started
    assert not [pid for pid in started if psutil.pid_exists(pid)]
    assert psutil.pid_exists(rabbitmq_server.pid)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_server_skips_a_test_but_fails_it_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    ci: str,
    outcome: type[BaseException],
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    for server in (RedisServer, RabbitServer):
        with pytest.raises(outcome, match="is not installed"):
            server(tmp_path_factory.mktemp("none"))


def test_waiting_returns_what_the_condition_returned_and_fails_with_the_message() -> None:
    answers = iter(["", "", "ready"])
    assert wait_until(lambda: next(answers)) == "ready"
    with pytest.raises(pytest.fail.Exception, match="the worker is ready"):
        wait_until(lambda: False, timeout=0, message="the worker is ready")


@pytest.mark.parametrize(
    ("run", "leaked"),
    [
        ({"open": "0", "owner": ""}, True),
        ({"tip": "1-0"}, True),
        (None, True),
        ({"open": "1", "owner": ""}, False),
        ({"open": "0", "owner": "node/1/2/3"}, False),
    ],
)
def test_a_key_without_a_time_to_live_is_a_leak_once_its_namespace_is_finished(
    redis_server: RedisServer, run: dict[str, str] | None, leaked: bool
) -> None:
    with redis_server.client(42) as client:
        redis_server.flushdb(42)
        if run is not None:
            client.hset("steps:{3}:run:order-42", mapping=run)
            client.expire("steps:{3}:run:order-42", 60)
        client.xadd("steps:{3}:journal:order-42", {"e": "entry"})
        client.set("steps:meta", "1")
        client.zadd("steps:{3}:due:shop", {"order-43": 1})
        if leaked:
            with pytest.raises(pytest.fail.Exception, match=r"steps:\{3\}:journal:order-42"):
                assert_no_leaks(client, timeout=0)
            client.expire("steps:{3}:journal:order-42", 60)
        assert_no_leaks(client, timeout=0)
        redis_server.flushdb(42)
