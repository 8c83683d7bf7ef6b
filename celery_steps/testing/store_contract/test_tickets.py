"""The ticket is the truth: waiting, retrying, held runs, finishing, settling, sweeping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_steps.engine.entries import pack_control
from celery_steps.store.index import Index
from celery_steps.store.replies import Append
from celery_steps.store.store import Store
from celery_steps.testing.store_contract.owner import APP, Owner, wait_until


def due(store: Store) -> list[str]:
    return [run.id for _, run in store.sweep(APP).runs]


def test_a_suspended_run_frees_the_namespace_and_wakes_in_time(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert owner.suspend(delay=40) is Append.OK
    assert store.status("order-42", owner.run) == "suspended"
    assert Owner(store).claim().verdict == "EARLY"
    wait_until(lambda: due(store) == ["id-1"])
    again = Owner(store)
    assert again.claim().verdict == "OK"
    assert store.fields("order-42")[f"{again.run}:crashes"] == "0" if f"{again.run}:crashes" in store.fields("order-42") else True
    again.finish_and_settle()


def test_a_retry_moves_retries_and_message_up_together(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert owner.retry(retries=1) is Append.OK
    assert store.status("order-42", owner.run) == "retrying"
    assert store.message("order-42", owner.run) == b"retry message"
    assert Owner(store).claim(retries=0).verdict == "STALE_MESSAGE"
    again = Owner(store)
    assert again.claim(retries=1).verdict == "OK"
    again.finish_and_settle()


def test_a_message_with_more_retries_replaces_the_stored_one(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.binding.release(0)
    again = Owner(store)
    again.claim(retries=2, message=b"newer")
    assert store.message("order-42", again.run) == b"newer"
    assert Owner(store).claim(retries=1).verdict == "STALE_MESSAGE"
    again.finish_and_settle()


def test_a_finished_run_keeps_its_ticket_until_it_is_settled(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert owner.finish() is Append.OK
    assert owner.finish() is Append.OK, "sent again"
    assert Owner(store).claim().verdict == "SETTLING"
    assert store.sweep(APP).next_ms > 0
    assert owner.binding.settle("succeeded")
    assert owner.binding.settle("succeeded"), "sent again"
    assert store.sweep(APP).next_ms == -1
    assert Owner(store).claim().verdict == "SETTLED"
    assert store.status("order-42", owner.run) == "succeeded"


def test_a_finished_run_whose_settler_died_is_finished_again(make_store: Callable[..., Store]) -> None:
    store = make_store(lease_ttl=0.05)
    owner = Owner(store)
    owner.claim()
    owner.finish()
    heir = Owner(store)
    wait_until(lambda: heir.claim().verdict == "FINISHED")
    assert owner.finish() is Append.DONE
    heir.binding.settle("succeeded")


def test_settle_without_an_outcome_does_nothing(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert not owner.binding.settle("succeeded")
    assert store.status("order-42", owner.run) == "running"
    owner.finish_and_settle()


def test_every_key_of_a_finished_namespace_expires_and_a_new_run_keeps_them(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.commit()
    owner.finish_and_settle()
    keys = store.keys.namespace("order-42")
    existing = [key for key in keys.all if store.client.call("EXISTS", key)]
    assert len(existing) == 3
    assert all(store.client.call("PTTL", key) > 0 for key in existing)
    assert store.client.call("PTTL", store.keys.index("id-1")) > 0

    second = Owner(store, id="id-2")
    second.claim()
    assert all(store.client.call("PTTL", key) == -1 for key in existing)
    second.finish_and_settle("failed")


def test_runs_that_share_a_namespace_go_one_at_a_time_first_come_first_served(store: Store) -> None:
    first, second, third = (Owner(store, id=f"id-{i}") for i in (1, 2, 3))
    assert first.claim().verdict == "OK"
    assert second.claim().verdict == "HELD"
    assert third.claim().verdict == "HELD"
    assert second.claim().verdict == "HELD", "it keeps its place"
    assert store.status("order-42", second.run) == "held"

    first.finish_and_settle()
    assert [run.id for run in first.binding.heads] == ["id-2"]
    assert due(store) == ["id-2"]
    assert third.claim().verdict == "HELD", "it is the other's turn"
    assert second.claim().verdict == "OK"
    second.suspend(10_000)
    assert third.claim().verdict == "OK"
    third.finish_and_settle()
    assert store.control("order-42", second.run, what="cancel", nonce="c", entry=pack_control(str(second.run)))[0] == "OK"
    assert second.claim().verdict == "OK"
    second.finish_and_settle("cancelled")


def test_a_turn_that_is_not_taken_passes(make_store: Callable[..., Store]) -> None:
    store = make_store(lease_ttl=0.05)
    first, second, third = (Owner(store, id=f"id-{i}") for i in (1, 2, 3))
    first.claim()
    second.claim()
    first.finish_and_settle()
    wait_until(lambda: third.claim().verdict == "OK")
    third.finish_and_settle()
    wait_until(lambda: second.claim().verdict == "OK")
    second.finish_and_settle()


def test_a_due_ticket_is_swept_once_and_pushed_on(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.binding.release(0)
    assert due(store) == ["id-1"]
    assert due(store) == []
    assert not store.take(APP, "order-42", owner.run)
    heir = Owner(store)
    heir.claim()
    heir.finish_and_settle()


@pytest.mark.parametrize("delivered", [True, False])
def test_a_held_run_that_was_published_in_vain_is_not_put_off_once_it_is_free(store: Store, delivered: bool) -> None:
    first, held = Owner(store), Owner(store, id="id-2")
    assert first.claim().verdict == "OK"
    assert held.claim().verdict == "HELD"
    keys = store.keys.namespace("order-42")
    ticket = (store.keys.due(keys.partition, APP), keys.member(str(held.run)))
    for _ in range(8):
        store.client.call("ZADD", ticket[0], "0", ticket[1])
        assert due(store) == ["id-2"]
        if delivered:
            assert float(store.client.call("ZSCORE", *ticket)) < Index(store).now() + 31_000, "one lease"
            assert held.claim().verdict == "HELD"
    first.finish_and_settle()
    assert due(store) == ["id-2"]
    assert store.sweep(APP).next_ms <= 30_000, "should that message be lost"
    held.claim()
    held.finish_and_settle()


def test_taking_one_ticket_leaves_it_to_one_publisher(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.binding.release(0)
    assert [store.take(APP, "order-42", owner.run) for _ in range(3)] == [True, False, False]
    heir = Owner(store)
    heir.claim()
    heir.finish_and_settle()


def test_a_ticket_whose_namespace_is_gone_is_reported_once(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.binding.release(0)
    store.client.call("DEL", *store.keys.namespace("order-42").all)
    assert due(store) == ["id-1"]
    assert store.message("order-42", owner.run) is None
    assert store.sweep(APP).next_ms == -1


def test_a_release_counts_no_crash(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    assert owner.binding.release(0)
    assert not owner.binding.release(0)
    heir = Owner(store)
    assert heir.claim().crashes == 0
    heir.finish_and_settle()


def test_a_cancel_reaches_the_owner_at_its_next_commit(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    entry = pack_control(str(owner.run))
    assert store.control("order-42", owner.run, what="cancel", nonce="c", entry=entry) == ("OK", "0")
    assert store.control("order-42", owner.run, what="cancel", nonce="c", entry=entry) == ("OK", "0")
    assert [e.kind for e in store.entries("order-42")] == ["attempt", "cancel"]
    assert owner.commit() is Append.STALE
    assert owner.binding.renew() > owner.fence
    assert owner.claim(expect=owner.fence).verdict == "OK", "only the owner of that fence goes on under a new one"
    assert Owner(store).claim(expect=owner.fence).verdict == "LEASELOST"
    owner.finish_and_settle("cancelled")
    assert store.control("order-42", owner.run, what="cancel", nonce="d", entry=entry) == ("REFUSED", "cancelled")


def test_a_cancel_of_a_run_that_nobody_knows_changes_nothing(store: Store) -> None:
    owner = Owner(store)
    assert store.control("order-42", owner.run, what="cancel", nonce="c", entry=b"")[0] == "UNKNOWN"
    assert store.fields("order-42") == {}


def test_a_verdict_on_a_lost_worker_breaks_its_lease_at_once(store: Store) -> None:
    owner = Owner(store, token="node/77/1/1")
    owner.claim()
    arguments: dict[str, Any] = {"nonce": "v", "entry": b"", "token": "node/main"}
    assert store.verdict("order-42", owner.run, process="node/7/", what="lost", **arguments).verdict == "NOTHING"
    assert store.verdict("order-42", owner.run, process="node/77/", what="lost", **arguments).verdict == "OPEN"
    assert due(store) == ["id-1"]
    heir = Owner(store)
    assert heir.claim().crashes == 1
    heir.finish_and_settle()
    assert store.verdict("order-42", heir.run, process="node/77/", what="lost", **arguments).verdict == "NOTHING"


def test_a_verdict_on_what_is_not_open_is_celerys(store: Store) -> None:
    owner = Owner(store)
    reply = store.verdict("order-42", owner.run, process="node/", what="lost", nonce="v", entry=b"", token="node/main")
    assert reply.verdict == "CELERY"


def test_a_final_verdict_takes_the_run_over(store: Store) -> None:
    owner = Owner(store, token="node/77/1/1")
    owner.claim()
    entry = pack_control(str(owner.run))
    arguments: dict[str, Any] = {"process": "node/77/", "what": "failed", "nonce": "v", "entry": entry, "token": "node/main"}
    verdict = store.verdict("order-42", owner.run, **arguments)
    assert verdict.verdict == "TAKEN"
    assert store.verdict("order-42", owner.run, **arguments) == verdict, "sent again"
    assert owner.commit() is Append.STALE
    main = Owner(store, token="node/main")
    main.fence, main.uid, main.last = verdict.fence, verdict.uid, f"{verdict.fence}-0"
    assert main.finish_and_settle("failed") is Append.OK
    assert store.status("order-42", owner.run) == "failed"


def test_a_borrowed_namespace_records_one_step_and_leaves_no_run(store: Store) -> None:
    borrower = Owner(store, namespace="home")
    borrower.binding = borrower.binding.elsewhere("order-42")
    assert borrower.borrow().verdict == "OK"
    assert Owner(store).claim().verdict == "HELD"
    before, after, id = borrower.next()
    for _ in range(2):
        assert borrower.binding.giveback(before, after, [(id, "step", b"x")]) is Append.OK
    assert [entry.kind for entry in store.entries("order-42")] == ["borrow", "step"]
    owner = Owner(store)
    assert owner.claim().verdict == "OK"
    other = Owner(store, namespace="home")
    other.binding = other.binding.elsewhere("order-42")
    assert other.borrow().verdict == "HELD"
    owner.finish_and_settle()


def test_a_borrower_that_dies_leaves_nothing_that_does_not_expire(make_store: Callable[..., Store]) -> None:
    store = make_store(lease_ttl=0.05)
    borrower = Owner(store, namespace="home")
    borrower.binding = borrower.binding.elsewhere("order-42")
    borrower.borrow()
    assert store.client.call("PTTL", store.keys.namespace("order-42").journal) > 0
    owner = Owner(store)
    wait_until(lambda: owner.claim().verdict == "OK")
    assert owner.claim(nonce="again").verdict in ("OK", "HELD")
    before, after, id = borrower.next()
    assert borrower.binding.giveback(before, after, [(id, "step", b"late")]) is Append.STALE
    owner.finish_and_settle()


def test_finished_runs_past_retention_are_forgotten(make_store: Callable[..., Store]) -> None:
    store = make_store(retention=0.0)
    owner, open_run = Owner(store), Owner(store, id="id-2")
    owner.claim()
    owner.finish()
    open_run_claim = open_run.claim()
    assert open_run_claim.verdict == "OK"
    owner.binding.settle("succeeded")
    wait_until(lambda: store.forget() == 1 or store.status("order-42", owner.run) is None)
    assert store.status("order-42", owner.run) is None
    assert store.status("order-42", open_run.run) == "running"
    open_run.finish_and_settle()
