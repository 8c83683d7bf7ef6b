"""How an attempt ends: what Celery stores and sends, and what is settled after."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import READY, SHOWN, STATUS, Moves, forgetting
from simulation.explorer import Kind, Move
from simulation.undoing import Undoing
from simulation.world import Attempt, World


class Endings(Undoing):
    """From the recorded outcome to the acknowledged message."""

    def _finished(self, world: World, me: Attempt, entry_id: str, entries: Any) -> World:
        """The outcome is recorded, the result perhaps not stored."""
        shown = world.runs[me.run].shown
        outcome = next((fields[1] for id, fields in entries if id == entry_id), "lost")
        if shown in READY:  # what Celery really stored
            state = next(status for status, word in SHOWN.items() if word == shown)
        else:
            state = "" if outcome in ("lost", "succeeded") else STATUS[outcome]
        phase = "fails" if outcome == "lost" else "sends"
        if not state:
            return world.swap(me, forgetting(me, phase))
        return world.swap(me, self._settling(me, state))

    def _sends(self, world: World, me: Attempt) -> Moves:
        run = world.runs[me.run]
        sent = world.run(me.run, callbacks=run.callbacks + 1)
        yield self._step(me, "sends callbacks", sent.swap(me, me._replace(phase="stores")))
        if world.may("unsent"):
            failed = world.spend("unsent").run(me.run, callbacks=run.callbacks + 1, counted=run.counted + 1, shown="FAILURE")
            label = f"{me.name}'s callback cannot be published: Celery stores FAILURE"
            yield Move(label, Kind.FAULT, failed.swap(me, self._settling(me, "failed")))

    def _stores(self, world: World, me: Attempt) -> Moves:
        run = world.runs[me.run]
        stored = world.run(me.run, shown="SUCCESS", counted=run.counted + 1)
        yield self._step(me, "is stored as SUCCESS", stored.swap(me, self._settling(me, "succeeded")))
        if world.may("unstored"):
            yield Move(f"{me.name} cannot be stored", Kind.FAULT, world.spend("unstored").run(me.run, excused=True).without(me))

    def _after_settle(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, world.swap(me, forgetting(me, "acks")) if self.scenario.judges else world.without(me))

    def _acks(self, world: World, me: Attempt) -> Moves:
        yield self._step(me, "is acknowledged", world.without(me))

    def _fails(self, world: World, me: Attempt) -> Moves:
        """Celery stores FAILURE, then calls errbacks; then the run is closed."""
        run = world.runs[me.run]
        stalled = run.excused or me.stalled
        stored = world.run(me.run, shown="FAILURE", counted=run.counted + 1, callbacks=run.callbacks + 1, excused=stalled)
        wrote = me._replace(wrote_state=True)
        after = self._ends(wrote, "failed") if me.fence else self._settling(wrote, "failed")
        yield self._step(me, "is stored as FAILURE", stored.swap(me, after))

    def _cancels(self, world: World, me: Attempt) -> Moves:
        run = world.runs[me.run]
        if run.shown != "REVOKED":
            world = world.run(me.run, shown="REVOKED", counted=run.counted + 1)
        wrote = me._replace(wrote_state=True)
        yield self._step(me, "is stored as REVOKED", world.swap(me, self._ends(wrote, "cancelled")))

    def _lost(self, world: World, me: Attempt) -> World:
        if (
            me.is_main or me.phase == "closes" or self._borrows(me)
        ):  # Celery has stored the state; the next delivery meets the loss again
            return world.without(me)
        todo = requests.binding(me.token, me.run, "abandon")
        return world.swap(me, forgetting(me, "abandon")._replace(todo=todo))

    def _after_abandon(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        if replies[0][0] == 1:
            yield Move("", Kind.STEP, world.swap(me, me._replace(phase="fails")))
        else:  # another has ended it, and stores that
            again = self._claim(forgetting(me, "claim"), known_only=True)
            yield Move("", Kind.STEP, world.swap(me, again._replace(pending="abandoned")))

    def _restored(self, world: World, run: int) -> World:
        """What a duplicate or a replaced owner wrote over the final state goes."""
        settled = self.env.of(world, run, "settled")
        return world if settled is None or self._is_ignored(world, run) else world.run(run, shown=SHOWN[settled])

    def _replaced(self, world: World, me: Attempt) -> World:
        """The lease is lost. What this attempt wrote may lie over a final state."""
        if self._borrows(me):
            return self._comes_back(world, me)
        if me.wrote_state and self.env.of(world, me.run, "outcome"):
            return world.swap(me, forgetting(me, "waits"))
        return world.without(me)

    def _is_ignored(self, world: World, run: int) -> bool:
        name = requests.field(run)
        return any(fields[:4] == ("finish", "ignored", "run", name) for _, fields in self.env.journal(world))

    def _comes_back(self, world: World, me: Attempt) -> World:
        """The borrower suspends in its own namespace; its ticket there brings it back."""
        return world.without(me).send(me.run, me.retries, "later")
