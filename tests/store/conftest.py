"""One suite over fakeredis and over a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import fakeredis
import pytest

from celery_steps.settings import Settings
from celery_steps.store.binding import Binding
from celery_steps.store.client import Client
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Append, Claim
from celery_steps.store.store import Store
from servers import RedisServer, assert_no_leaks

APP = "shop"


class FakeClient(Client):
    """The client of the project over fakeredis's connections."""

    def __init__(self, server: fakeredis.FakeServer) -> None:
        super().__init__("redis://localhost/0")
        self._pool = fakeredis.FakeRedis(server=server, protocol=2).connection_pool


@pytest.fixture(params=["fakeredis", "redis"])
def make_store(request: pytest.FixtureRequest) -> Iterator[Callable[..., Store]]:
    """Makes stores on one empty database, with the settings given."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flushdb(1)
        yield lambda **settings: Store(Settings(backend=server.url(1), **settings))
        with server.client(1) as client:
            assert_no_leaks(client)
    else:
        fake = fakeredis.FakeServer()
        yield lambda **settings: Store(Settings(backend="redis://localhost/0", **settings), FakeClient(fake))


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


class Owner:
    """One attempt's view: keeps the tip as an engine would."""

    def __init__(self, store: Store, namespace: str = "order-42", id: str = "id-1", token: str = "", nesting: int = 0) -> None:
        self.run = RunId("shop.fulfil", id, nesting)
        self.token = token or f"node/{next(_serial)}/1/1"
        self.binding: Binding = store.bind(namespace, self.run, self.token, APP)
        self.last = ""
        self.uid = ""
        self.fence = 0
        self.n = 0

    def claim(self, retries: int = 0, nonce: str = "", message: bytes = b"message", **more: Any) -> Claim:
        claim, _ = self.binding.claim(nonce or f"nonce{next(_serial)}", b"call", retries=retries, message=message, **more)
        self._own(claim)
        return claim

    def borrow(self) -> Claim:
        claim, _ = self.binding.borrow(f"nonce{next(_serial)}", b"call")
        self._own(claim)
        return claim

    def _own(self, claim: Claim) -> None:
        if claim.verdict == "OK":
            self.fence, self.uid, self.n, self.last = claim.fence, claim.uid, 0, f"{claim.fence}-0"

    def next(self) -> tuple[str, str, str]:
        """Tip before, tip after, id of the next entry."""
        id = f"{self.fence}-{self.n + 1}"
        return f"{self.last} {self.uid}", f"{id} {self.uid}", id

    def wrote(self, reply: Append) -> Append:
        if reply is Append.OK:
            self.n += 1
            self.last = f"{self.fence}-{self.n}"
        return reply

    def commit(self, data: bytes = b"step", *, record: bool = True) -> Append:
        before, after, id = self.next()
        return self.wrote(self.binding.commit(before, after, [(id, "step", data)], record=record))

    def suspend(self, delay: int) -> Append:
        before, after, id = self.next()
        return self.wrote(self.binding.suspend(before, after, [(id, "suspend", b"suspend")], delay=delay))

    def retry(self, retries: int, delay: int = 0, message: bytes = b"retry message") -> Append:
        return self.wrote(self.binding.retry(*self.next(), b"retry", delay, retries, message))

    def finish(self) -> Append:
        return self.wrote(self.binding.finish(*self.next(), b"finish"))

    def finish_and_settle(self, state: str = "succeeded") -> Append:
        return self.wrote(self.binding.finish_and_settle(*self.next(), b"finish", state))


_serial = count(1)
