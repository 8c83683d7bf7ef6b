"""One attempt as the contract's tests play it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import pytest

from celery_steps.store.binding import Binding
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Append, Claim
from celery_steps.store.store import Store

T = TypeVar("T")
APP = "shop"
_serial = count(1)


def wait_until(condition: Callable[[], T], timeout: float = 20) -> T:
    """Ask until `condition` returns something true, and return that; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout} s in vain: {condition}")
        time.sleep(0.02)
    return answer


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
