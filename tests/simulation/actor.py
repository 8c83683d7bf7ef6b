"""An attempt's requests, and what it keeps in mind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_steps.engine.entries import NEVER
from celery_steps.store.replies import Await
from simulation import requests
from simulation.environment import Environment
from simulation.explorer import Kind, Move
from simulation.redis_in_python import Command
from simulation.requests import REOPENED
from simulation.world import Attempt, World

#: What Celery shows for a status that is final.
SHOWN = {"succeeded": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
STATUS = {"succeeded": "succeeded", "ignored": "succeeded", "failed": "failed", "cancelled": "cancelled"}
READY = frozenset(SHOWN.values())
#: Phases in which an attempt may go on with its body.
EXECUTING = frozenset(
    ("borrowed", "body", "commit", "intend", "call", "tell", "inbox", "receive", "catch up", "reclaim", "renew", "undo")
)
#: What was pending when the body had been left already.
LEAVING = ("suspend", "retry", "finish", "close", "giveback", "done", "rolls")
#: Verbs that are steps with an undo.
UNDOABLE = frozenset("uUV")
#: A crash here lies between what Celery sends or stores and what is recorded of it.
BETWEEN = frozenset(("stores", "closes", "rolls", "leaves undos", "unopened stores"))
Moves = Iterator[Move[World]]


class Actor:
    """What all that an attempt does is made of: the requests to send next."""

    def __init__(self, environment: Environment) -> None:
        self.env = environment
        self.scenario = environment.scenario

    def _borrows(self, me: Attempt) -> bool:
        return self.scenario.bodies[me.run] == "b"

    def _step(self, me: Attempt, what: str, world: World, *wrong: str) -> Move[World]:
        return Move(f"{me.name} (run {me.run}) {what}", Kind.STEP, world, wrong)

    def _claim(self, me: Attempt, *, known_only: bool = False) -> Attempt:
        todo = requests.binding(
            me.token, me.run, "claim", f"{me.name}#{me.claims}", me.name.encode(),
            retries=me.retries % REOPENED, message=f"{me.run}/{me.retries}".encode(), known_only=known_only,
            reopened=me.retries // REOPENED,
        )  # fmt: skip
        return me._replace(phase="claim", todo=todo, replies=(), claims=me.claims + 1)

    def _reclaim(self, me: Attempt) -> Attempt:
        todo = requests.binding(
            me.token, me.run, "claim", f"{me.name}#{me.claims}", me.name.encode(),
            retries=me.retries % REOPENED, message=b"", expect=int(me.fence), after=me.last,
            reopened=me.retries // REOPENED,
        )  # fmt: skip
        return me._replace(phase="reclaim", todo=todo, replies=(), claims=me.claims + 1)

    def _borrow(self, me: Attempt, phase: str = "borrow") -> Attempt:
        todo = requests.borrower(me.token, me.run, "borrow", f"{me.name}#{me.claims}", me.name.encode())
        return me._replace(phase=phase, todo=todo, replies=(), claims=me.claims + 1)

    def _command(self, me: Attempt, what: str) -> tuple[Command, ...]:
        """The append `what`, after the last entry that this attempt knows."""
        id = f"{me.fence}-{me.n + 1}"
        before, after = f"{me.last} {me.uid}", f"{id} {me.uid}"
        at = f"{me.run}:{me.position}"

        def ask(method: str, *arguments: Any, **options: Any) -> tuple[Command, ...]:
            return requests.binding(me.token, me.run, method, before, after, *arguments, **options)

        if what == "giveback":
            record = (id, "step", f"0:0:{me.name}".encode())
            return requests.borrower(me.token, me.run, "giveback", before, after, (record,))
        if what == "commit":
            return ask("commit", ((id, "step", f"{at}:{value(me)}".encode()),), record=True)
        if what == "intend":
            return ask("commit", ((id, "intent", f"{at}:{me.name}".encode()),), record=False)
        if what == "undo":
            done = self._undo_succeeds(me)
            entry = f"{me.run}:{self._to_undo(me)}:{'done' if done else 'failed'}".encode()
            return ask("commit", ((id, "undo", entry),), record=done)
        if what == "receive":
            taken = tuple(filter(None, me.taking[:1]))
            return ask("receive", ((id, "step", f"{at}:{value(me)}".encode()),), ended=(awaited(me),), taken=taken)
        if what == "suspend":
            about = f"{me.run}:-1:{me.resting}" if me.resting else at
            return ask("suspend", ((id, "suspend", about.encode()),), **self._until(me))
        if what == "retry":
            retries, message = me.retries % REOPENED + 1, f"{me.run}/{me.retries + 1}".encode()
            return ask("retry", id, at.encode(), requests.TTL_MS, retries, message)
        if what == "finish":
            return ask("finish", id, b"succeeded")
        outcome = what.partition(" ")[2]
        return ask("finish_and_settle", id, outcome.encode(), STATUS[outcome])

    # -- undoing: what it knows of it ---------------------------------------------------------------------------------

    def _undoable(self, me: Attempt) -> list[int]:
        """Steps that this run has recorded and can undo, oldest first."""
        own = (identity.split(":") for identity, _ in me.known)
        body = self.scenario.bodies[me.run]
        return sorted(int(at) for run, at in own if int(run) == me.run and body[int(at)] in UNDOABLE)

    def _to_undo(self, me: Attempt) -> int | None:
        return next((at for at in reversed(self._undoable(me)) if at not in me.undone), None)

    def _undo_succeeds(self, me: Attempt) -> bool:
        letter = self.scenario.bodies[me.run][self._to_undo(me) or 0]
        return letter == "u" or (letter == "U" and me.undo_failures > 0)

    def _until(self, me: Attempt) -> dict[str, Any]:
        if me.resting == "in_doubt" or (me.resting == "paused" and me.paused):
            return {"delay": NEVER - requests.NOW, "status": me.resting}
        if me.resting:
            rolls = me.resting in ("replay", "undo")
            delay = requests.TTL_MS if me.resting == "undo" else 0
            return {"delay": delay, "status": "rolling_back" if rolls else "suspended"}
        letter = self.scenario.bodies[me.run][me.position]
        if letter == "z":
            return {"delay": requests.TTL_MS}
        awaits = (awaited(me),)
        return {"delay": requests.TTL_MS if letter == "W" else NEVER - requests.NOW, "awaits": awaits, "seen": me.seen}

    def _closing(self, me: Attempt, outcome: str, state: str) -> Attempt:
        """FINISH and SETTLE: Celery has stored what it stores."""
        me = me._replace(phase="closes", pending=f"close {outcome}")
        return me._replace(todo=self._command(me, me.pending), replies=())

    def _settling(self, me: Attempt, state: str) -> Attempt:
        return forgetting(me, "settle")._replace(todo=requests.binding(me.token, me.run, "settle", state))

    def _renew(self, me: Attempt, then: str) -> Attempt:
        return me._replace(phase="renew", pending=then, todo=requests.binding(me.token, me.run, "renew"))

    def _write_started(self, world: World, me: Attempt, *, owner: bool) -> World:
        if self.scenario.started and (owner or not world.runs[me.run].shown):
            return world.run(me.run, shown="STARTED").having(me._replace(wrote_state=True))
        return world.having(me)


def is_executing(attempt: Attempt) -> bool:
    """Whether this attempt runs its body as the owner, as far as it can know."""
    left = attempt.pending.startswith(LEAVING)
    return bool(attempt.fence) and not attempt.stalled and not left and attempt.phase in EXECUTING


def awaited(attempt: Attempt) -> Await:
    """The wait that it has come to; no other run waits for what this one waits for."""
    return Await(requests.EVENT, f"{attempt.run}:{attempt.position}", b"match")


def value(attempt: Attempt) -> str:
    """What it records of its step: who it is, and the event that it takes."""
    return "=".join((attempt.name, *attempt.taking[1:]))


def without_taken(me: Attempt) -> Attempt:
    """Once the event that it took is recorded."""
    return me._replace(inbox=tuple(event for event in me.inbox if event[0] not in me.taking), taking=())


def forgetting(me: Attempt, phase: str) -> Attempt:
    """What an attempt has in mind once it owns nothing: so that states meet again."""
    return Attempt(
        me.name, me.run, me.retries, me.origin, phase, claims=me.claims, stalled=me.stalled, wrote_state=me.wrote_state
    )
