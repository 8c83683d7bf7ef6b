"""A run that ends failed or cancelled undoes what it did, newest first: `engine/rollback.py`."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import Actor, Moves
from simulation.explorer import Kind, Move
from simulation.standing import standing_steps
from simulation.world import Attempt, World

#: So often an undo is tried.
TRIES = 2


class Undoing(Actor):
    """From the stored state to the recorded outcome, where there is something to undo."""

    def _ends(self, me: Attempt, outcome: str) -> Attempt:
        """Celery has stored how the run ends: what is sent next."""
        if me.rolling:
            return me._replace(phase="undoes", rolling=outcome)
        if self._undoable(me):
            return me._replace(phase="rolls", pending="rolls", todo=self._roll(me, outcome), replies=())
        return self._closing(me, outcome, outcome)

    def _roll(self, me: Attempt, outcome: str) -> Any:
        entry = f"{outcome} {requests.field(me.run)}".encode()
        return requests.binding(me.token, me.run, "begin_rollback", f"{me.name}#rollback{me.n}", entry)

    def _after_rolls(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        """Whatever the answer was: who reads the journal then sees it."""
        todo = requests.binding(me.token, me.run, "read", me.last)
        yield Move("", Kind.STEP, world.swap(me, me._replace(phase="catch up", todo=todo, pending="rolls")))

    def _undoes(self, world: World, me: Attempt) -> Moves:
        at = self._to_undo(me)
        if at is None or me.undo_failures >= TRIES or me.crashes >= self.scenario.max_crashes:
            yield self._step(me, "has nothing left to undo", world.swap(me, self._closing(me, me.rolling, me.rolling)))
            return
        if me.position <= at:  # cancelled before its body came by: who replays it has the undos
            resting = me._replace(phase="suspend", resting="replay")
            yield self._step(me, "leaves the undos to a replay", world.swap(me, self._sending(resting, "suspend")))
            return
        wrong = []
        undone = {data for _, (kind, data, *_) in self.env.journal(world) if kind == "undo"}
        if not me.stalled and f"{me.run}:{at}:done" in undone and f"{me.run}:{at}" in standing_steps(self.env.journal(world)):
            again = [data for _, (kind, data, *_) in self.env.journal(world) if kind in ("undo", "reopen")]
            if again[::-1].index(f"{me.run}:{at}:done") < _last_reopening(again):
                wrong.append("R1 an undo runs again though it is recorded")
        yield self._step(me, f"undoes {at}", world.swap(me, self._sending(me._replace(phase="undo"), "undo")), *wrong)

    def _sending(self, me: Attempt, what: str) -> Attempt:
        return me._replace(todo=self._command(me, what), replies=())

    def _after_undo(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "undo", replies[0]))


def _last_reopening(entries: list[str]) -> int:
    """How many entries lie behind the last reopening, all of them if there was none."""
    behind = [" " in data for data in entries[::-1]]
    return behind.index(True) if True in behind else len(behind)
