"""Journals that earlier versions have written."""

from __future__ import annotations

from celery_steps.codec import Codec, pack
from celery_steps.engine import entries as fmt
from celery_steps.engine.history import History
from celery_steps.engine.standing import Standing
from celery_steps.store.replies import Entry


def test_tries_and_undos_without_times_are_read() -> None:
    failure = Codec().encode_failure(ValueError("no"), namespace="n", key="charge", sequence=1)
    history = History.of(
        [
            Entry("1000-0", "attempt", fmt.pack_call("worker", "pay/a/0", "pay", None, 0)),
            Entry("1000-1", "start", fmt.pack_start(("charge", 1))),
            Entry("1000-2", "tried", pack([fmt.FORMAT, "charge", 1, 5000, failure])),
            Entry("1000-3", "step", fmt.pack_step(("charge", 1), None, True, b"", None, 10, 20, "run", True)),
            Entry("1000-4", "undo", pack([fmt.FORMAT, "charge", 1, True, b""])),
        ]
    )
    assert [(past.status, past.verb) for past in history.steps] == [("raised", "run"), ("undone", "run"), ("done", "undo")]
    raised, _, undo = history.steps
    assert (raised.began_ms, raised.ended_ms, undo.began_ms) == (1000, 1000, 1030)


def test_what_an_operator_said_stands_against_a_branch_that_was_given_up() -> None:
    run = "pay/a/0"
    entries = [
        Entry("1000-0", "attempt", fmt.pack_call("worker", run, "pay", None, 0)),
        Entry("1000-1", "intent", fmt.pack_intent(("charge", 1), None, True)),
        Entry("2000-0", "resolve", fmt.pack_resolve(run, ("charge", 1), "done", b"")),
        Entry("3000-0", "attempt", fmt.pack_call("worker", run, "pay", None, 0)),
        Entry("3000-1", "step", fmt.pack_step(("charge", 1), None, False, b"dropped", None, 0, 0)),
    ]
    standing = Standing(run)
    standing.absorb(entries)
    assert (standing.steps["charge", 1].said, standing.undoable) == (True, [("charge", 1)])
    assert [past.status for past in History.of(entries).steps] == ["done"]
