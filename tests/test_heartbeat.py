"""The heartbeat's thread: it outlives every error, and misses no lease."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import redis

from celery_steps.codec import Codec
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.memory import MemoryStore
from celery_steps.worker.heartbeat import Heartbeat
from servers import wait_until


class Lease(MemoryStore):
    """Counts its renewals, and raises in their place what it is given."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__("order-42")
        self.errors = list(errors)
        self.renewals = 0

    def renew(self) -> int:
        self.renewals += 1
        if self.errors:
            raise self.errors.pop(0)
        return 1


def attempt(lease: Lease) -> Attempt:
    return Attempt(store=lease, run="order/id-1/0", run_id="id-1", task="order", token="token", codec=Codec())


@pytest.fixture
def keep() -> Iterator[Callable[[Heartbeat, Lease], None]]:
    """Hold a lease until the test has ended."""
    held: list[tuple[Heartbeat, Lease]] = []

    def hold(heartbeat: Heartbeat, lease: Lease) -> None:
        held.append((heartbeat, lease))
        heartbeat.hold(lease, attempt(lease))

    yield hold
    for heartbeat, lease in held:
        heartbeat.drop(lease)


@pytest.mark.parametrize("error", [redis.ResponseError("NOPERM"), OSError("no more files"), RuntimeError("unforeseen")])
def test_an_error_of_a_renewal_does_not_end_the_heartbeat(keep: Callable[[Heartbeat, Lease], None], error: Exception) -> None:
    lease = Lease(error)
    keep(Heartbeat(0.03), lease)
    wait_until(lambda: lease.renewals > 2, timeout=5)


def test_two_threads_that_hold_the_first_leases_at_once_both_keep_them(
    keep: Callable[[Heartbeat, Lease], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, pid = threading.Barrier(2), os.getpid()

    def asked_together() -> int:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # where only one may ask at a time, the other does not come
        return pid

    heartbeat, leases = Heartbeat(0.03), (Lease(), Lease())
    with monkeypatch.context() as patch:
        patch.setattr("celery_steps.worker.heartbeat.os.getpid", asked_together)
        threads = [threading.Thread(target=keep, args=(heartbeat, lease)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_until(lambda: all(lease.renewals for lease in leases), timeout=5)


def test_a_lease_taken_while_the_heartbeat_goes_to_sleep_is_kept(
    keep: Callable[[Heartbeat, Lease], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat, first, second = Heartbeat(0.03), Lease(), Lease()
    keep(heartbeat, first)
    clear = heartbeat._wake.clear

    def taken_meanwhile() -> None:
        if not heartbeat._held:
            keep(heartbeat, second)
        clear()

    monkeypatch.setattr(heartbeat._wake, "clear", taken_meanwhile)
    heartbeat.drop(first)
    wait_until(lambda: second.renewals > 2, timeout=5)
