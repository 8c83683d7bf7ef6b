"""Stores on the server under test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import fakeredis
import pytest

from celery_steps.settings import Settings
from celery_steps.store.store import Store
from celery_steps.testing.fake import fake_store
from celery_steps.testing.store_contract.owner import wait_until


@pytest.fixture
def contract_url(pytestconfig: pytest.Config) -> str | None:
    """Where the server is, None: fakeredis."""
    url: str | None = pytestconfig.getoption("--steps-url")
    return url


@pytest.fixture
def make_store(contract_url: str | None) -> Iterator[Callable[..., Store]]:
    """Makes stores that share their keys, with the settings given."""
    fake, prefix = fakeredis.FakeServer(), f"contract-{uuid4().hex[:12]}"
    made: list[Store] = []

    def make(**settings: object) -> Store:
        parts = Settings(backend=contract_url or "redis://localhost/0", key_prefix=prefix, **settings)  # type: ignore[arg-type]
        made.append(fake_store(parts, fake) if contract_url is None else Store(parts))
        return made[-1]

    yield make
    if made:
        try:
            wait_until(lambda: not leaks(made[0]))
        finally:
            for key in keys_of(made[0]):
                made[0].client.call("DEL", key)
            for store in made:
                store.client.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


def keys_of(store: Store) -> list[str]:
    """Every key of this store."""
    found, cursor = [], "0"
    while True:
        reply = store.client.call("SCAN", cursor, "MATCH", f"{store.settings.key_prefix}:*", "COUNT", "1000")
        found += [key.decode() for key in reply[1]]
        cursor = reply[0].decode()
        if cursor == "0":
            return sorted(set(found))


def leaks(store: Store) -> list[str]:
    """The keys of finished namespaces that would stay for ever."""
    found = []
    for key in keys_of(store):
        parts = re.fullmatch(r"(.*?:\{\d+\}):(?:journal|run|msg|inbox|log|held|heard):(.*)", key, re.DOTALL)
        if parts is None:
            continue
        opened, owner = store.client.call("HMGET", f"{parts[1]}:run:{parts[2]}", "open", "owner")
        if opened in (None, b"0") and not owner and store.client.call("TTL", key) == -1:
            found.append(key)
    return found
