"""Exchanges with a Redis that is restarted, refuses, or is not the one that was meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_steps.errors import StoreUnavailable
from celery_steps.store.client import Client
from servers import RedisServer


class CountingClient(Client):
    """Notes how often an exchange was tried; `meanwhile` is done before each."""

    tries = 0
    meanwhile: Callable[[int], None] | None = None

    def _once(self, commands: object) -> list[object]:
        self.tries += 1
        if self.meanwhile is not None:
            self.meanwhile(self.tries)
        return super()._once(commands)  # type: ignore[arg-type]


def test_connections_that_went_stale_together_are_dropped_together(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    client = CountingClient(server.url(), patience=1)
    for _ in range(60):
        connection = client._pool.connection_class(**client._pool.connection_kwargs)
        connection.connect()
        client._idle.append(connection)
    with server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    assert client.call("PING") == b"PONG"
    assert client.tries == 2
    client.close()


def test_a_server_that_refuses_writes_for_now_is_waited_for(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options=("--min-replicas-to-write", "1"))
    client = CountingClient(server.url(), patience=10)

    def accept(tries: int) -> None:
        if tries == 2:
            with server.client() as admin:
                admin.config_set("min-replicas-to-write", 0)

    client.meanwhile = accept
    assert client.call("SET", "key", "value") == b"OK"
    assert client.tries == 2
    client.close()


def test_a_database_that_does_not_exist_is_named_at_once(redis_server: RedisServer) -> None:
    client = CountingClient(redis_server.url(9999), patience=10)
    with pytest.raises(StoreUnavailable, match=r"/9999 refuses the connection: .*Correct steps_backend"):
        client.call("PING")
    assert client.tries == 1
