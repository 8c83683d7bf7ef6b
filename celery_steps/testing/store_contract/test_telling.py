"""TELL: lines and progress are the owner's to write, once each."""

from __future__ import annotations

from typing import Any

from celery_steps.store import binding
from celery_steps.store.index import Index
from celery_steps.store.store import Store
from celery_steps.testing.store_contract.owner import Owner


def lines(store: Store) -> list[bytes]:
    return [data for _, _, data in Index(store).lines("order-42")][::-1]


def tell(owner: Owner, n: int, line: bytes = b"", progress: bytes = b"", place: str = "0.0.1") -> bool:
    return owner.binding.tell(f"{owner.fence}-{n}", place, line, progress)


def test_a_line_is_kept_in_its_order_with_its_time(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    for n in range(1, 12):
        assert tell(owner, n, b"line %d" % n)
    assert lines(store) == [b"line %d" % n for n in range(1, 12)]
    now = Index(store).now()
    assert all(now - 60_000 < int(at) <= now for _, at, _ in Index(store).lines("order-42"))
    owner.finish_and_settle()


def test_what_is_sent_twice_is_written_once_also_late(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert tell(owner, 9, b"one", b"1", "0.0.1")
    assert tell(owner, 9, b"one", b"1", "0.0.1")
    assert tell(owner, 10, b"two", b"2", "0.0.2")
    assert tell(owner, 9, b"one", b"1", "0.0.1")
    assert lines(store) == [b"one", b"two"]
    fields = store.fields("order-42")
    assert fields[f"{owner.run}:progress"] == "2"
    assert fields[f"{owner.run}:logged"].split()[0] == "0.0.2"
    owner.finish_and_settle()


def test_a_late_copy_from_before_the_fence_moved_on_is_not_written(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    for fence, n in ((owner.fence, 5), (owner.fence + 1, 6), (owner.fence, 5), (owner.fence, 9)):
        assert owner.binding.tell(f"{fence}-{n}", "0.0.1", b"line %d" % n, b"")
    assert lines(store) == [b"line 5", b"line 6"]
    owner.finish_and_settle()


def test_who_does_not_own_the_namespace_any_more_writes_nothing(store: Store) -> None:
    stale = Owner(store)
    stale.claim()
    tell(stale, 1, b"mine", b"1")
    stale.binding.release(0)
    assert not tell(stale, 2, b"late", b"9")
    owner = Owner(store)
    owner.claim()
    assert not tell(stale, 3, b"later", b"9", "9.9.9")
    assert tell(owner, 1, b"new")
    assert lines(store) == [b"mine", b"new"]
    assert store.fields("order-42")[f"{owner.run}:progress"] == "1"
    owner.finish_and_settle()
    assert not tell(owner, 2, b"after the end")


def test_a_claim_says_how_far_the_body_has_told(store: Store) -> None:
    first = Owner(store)
    assert first.claim().told == ""
    tell(first, 1, b"line", place="3.1.2")
    first.suspend(0)
    assert Owner(store).claim().told.split()[0] == "3.1.2"
    store.client.call("FLUSHDB")


def test_a_log_keeps_about_as_many_lines_as_it_should(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(binding, "LINES", "100")
    owner = Owner(store)
    owner.claim()
    for n in range(1, 1001):
        tell(owner, n, b"line %d" % n)
    kept = lines(store)
    assert 100 <= len(kept) <= 300
    assert kept[-1] == b"line 1000"
    owner.finish_and_settle()


def test_a_log_expires_with_its_namespace_and_is_dropped_with_it(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    tell(owner, 1, b"line", b"1")
    owner.finish_and_settle()
    log = store.keys.namespace("order-42").log
    assert 0 < store.client.call("PTTL", log) <= int(store.retention_ms)
    assert Index(store).purge([("succeeded", "order-42", owner.run)]) == 1
    assert [key for key in store.client.call("KEYS", f"{store.settings.key_prefix}:*") if b":meta" not in key] == []


def test_a_forgotten_run_leaves_nothing_of_what_it_told(store: Store) -> None:
    kept, gone = Owner(store, id="id-1"), Owner(store, id="id-2")
    kept.claim()
    kept.suspend(3_600_000)
    gone.claim()
    tell(gone, 1, b"line", b"1")
    gone.finish_and_settle()
    Index(store).purge([("succeeded", "order-42", gone.run)])
    assert [field for field in store.fields("order-42") if field.startswith(f"{gone.run}:")] == []
    store.client.call("FLUSHDB")
