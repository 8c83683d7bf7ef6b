"""Who may write a journal: claims, leases, fences."""

from __future__ import annotations

from collections.abc import Callable

from celery_steps.store.replies import Append
from celery_steps.store.store import Store
from celery_steps.testing.store_contract.owner import APP, Owner, wait_until

SHORT = {"lease_ttl": 0.05}


def test_a_claim_opens_the_run_with_an_entry_a_ticket_and_a_lease(store: Store) -> None:
    owner = Owner(store)
    claim = owner.claim()
    fields = store.fields("order-42")

    assert claim.verdict == "OK"
    assert claim.attempts == 1
    assert claim.crashes == 0
    assert [entry.kind for entry in store.entries("order-42")] == ["attempt"]
    assert fields["owner"] == owner.token
    assert store.status("order-42", owner.run) == "running"
    assert store.message("order-42", owner.run) == b"message"
    assert 0 < store.sweep(APP).next_ms <= 30_000
    owner.finish_and_settle()


def test_a_claim_sent_again_is_the_same_claim(store: Store) -> None:
    owner = Owner(store)
    first = owner.claim(nonce="same")
    assert owner.claim(nonce="same").fence == first.fence
    assert [entry.kind for entry in store.entries("order-42")] == ["attempt"]
    owner.finish_and_settle()


def test_a_second_attempt_at_the_same_run_is_held_while_the_owner_lives(store: Store) -> None:
    owner, other = Owner(store), Owner(store)
    owner.claim()
    assert other.claim().verdict == "HELD"
    assert owner.commit() is Append.OK
    owner.finish_and_settle()


def test_an_expired_lease_is_claimed_counts_a_crash_and_fences_the_old_owner(make_store: Callable[..., Store]) -> None:
    store = make_store(**SHORT)
    stale, heir = Owner(store), Owner(store)
    stale.claim()
    stale.commit(b"recorded")
    wait_until(lambda: heir.claim().verdict == "OK")

    assert heir.fence > stale.fence
    assert store.fields("order-42")[f"{heir.run}:crashes"] == "1"
    assert stale.commit() is Append.STALE
    assert stale.binding.renew() == 0
    assert stale.finish() is Append.STALE
    assert stale.suspend(0) is Append.STALE
    assert stale.retry(1) is Append.STALE
    assert heir.commit() is Append.OK
    assert store.fields("order-42")[f"{heir.run}:crashes"] == "0", "a new record resets the crash count"
    heir.finish_and_settle()


def test_an_older_message_of_a_held_run_is_stale(store: Store) -> None:
    owner, held = Owner(store), Owner(store, id="2")
    owner.claim()
    assert held.claim(retries=1).verdict == "HELD"
    assert held.claim(retries=0).verdict == "STALE_MESSAGE", "its stored message has one retry"
    owner.finish_and_settle()
    assert held.claim(retries=1).verdict == "OK"
    held.finish_and_settle()


def test_renewing_keeps_the_lease(make_store: Callable[..., Store]) -> None:
    store = make_store(lease_ttl=0.3)
    owner = Owner(store)
    owner.claim()
    first = float(store.fields("order-42")["lease"])
    wait_until(lambda: owner.binding.renew() == owner.fence and float(store.fields("order-42")["lease"]) > first + 100)
    assert Owner(store).claim().verdict == "HELD"
    owner.finish_and_settle()


def test_a_commit_sent_again_is_recognised(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    before, after, id = owner.next()
    for _ in range(2):
        assert owner.binding.commit(before, after, [(id, "step", b"x")], record=True) is Append.OK
    assert [entry.kind for entry in store.entries("order-42")] == ["attempt", "step"]
    owner.wrote(Append.OK)
    owner.finish_and_settle()


def test_a_commit_that_follows_another_entry_is_refused(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    _, after, id = owner.next()
    assert owner.binding.commit("1-0 someone", after, [(id, "step", b"x")], record=True) is Append.STALE
    owner.finish_and_settle()


def test_several_entries_go_in_one_commit(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    before, _, _ = owner.next()
    ids = [f"{owner.fence}-{i}" for i in (1, 2, 3)]
    owner.binding.commit(before, f"{ids[-1]} {owner.uid}", [(id, "step", b"x") for id in ids], record=True)
    assert [entry.id for entry in store.entries("order-42")][1:] == ids
    owner.n, owner.last = 3, ids[-1]
    owner.finish_and_settle()


def test_a_deleted_journal_is_lost_to_its_owner_and_to_whoever_claims(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    store.client.call("DEL", store.keys.namespace("order-42").journal)

    assert owner.commit() is Append.LOST
    assert owner.finish() is Append.LOST
    assert Owner(store).claim().verdict == "LOST"
    assert owner.binding.abandon()
    assert Owner(store).claim().verdict == "SETTLING", "it ends once, and is not run again in silence"
    owner.binding.settle("failed")
    assert Owner(store).claim().detail == "failed lost"


def test_an_outcome_is_known_from_the_journal_when_the_hash_is_gone(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.finish()
    store.client.call("DEL", store.keys.namespace("order-42").run)

    late = Owner(store)
    assert late.claim().verdict == "FINISHED"
    late.binding.settle("succeeded")


def test_fences_rise_even_when_the_clock_has_stepped_back(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    future = 4_000_000_000_000
    store.client.call("HSET", store.keys.namespace("order-42").run, "fence", str(future))
    owner.binding.release(0)
    heir = Owner(store)
    assert heir.claim().fence == future + 1
    heir.finish_and_settle()


def test_a_lease_further_off_than_its_length_is_over(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    store.client.call("HSET", store.keys.namespace("order-42").run, "lease", "4000000000000")
    heir = Owner(store)
    assert heir.claim().verdict == "OK"
    heir.finish_and_settle()


def test_only_a_known_run_is_claimed_when_that_is_asked(store: Store) -> None:
    owner = Owner(store)
    assert owner.claim(known_only=True).verdict == "UNKNOWN"
    assert store.fields("order-42") == {}
    assert store.client.call("GET", store.keys.index("id-1")) is None


def test_a_late_duplicate_of_a_settled_run_leaves_its_index_to_expire(store: Store) -> None:
    owner = Owner(store)
    owner.claim()
    owner.finish_and_settle()
    assert Owner(store).claim().verdict == "SETTLED"
    assert store.namespace_of("id-1") == "order-42"
    assert store.client.call("PTTL", store.keys.index("id-1")) > 0


def test_namespaces_that_look_alike_have_journals_of_their_own(store: Store) -> None:
    names = ["tenant/a", "tenant_a", "tenant%2Fa", "a b", "a\nb", "{x}", "ä", "A", "a"]
    keys = [store.keys.namespace(name) for name in names]
    assert len({key.journal for key in keys}) == len(names)
    assert all(key.journal.isascii() and " " not in key.journal and "\n" not in key.journal for key in keys)


def test_only_the_process_that_has_the_run_is_asked_to_hand_it_over(store: Store) -> None:
    def ask(process: str, nonce: str) -> str:
        answer, _ = store.control("order-42", old.run, what="handover", nonce=nonce, entry=b"", owner=process)
        return answer

    old = Owner(store, token="old@node/7/1/1")
    old.claim()
    assert ask("old@node/7/", "n1") == "OK"
    assert ask("old@node/7/", "n1") == "OK", "sent again"
    old.binding.release(0)
    assert ask("old@node/7/", "n2") == "REFUSED", "it has left"
    new = Owner(store, token="new@node/7/1/1")
    new.claim()
    for process in ("old@node/7/", "new@node/77/"):
        assert ask(process, f"n of {process}") == "REFUSED"
    assert new.commit() is Append.OK, "nothing was written beside it"
    new.finish_and_settle()
