"""`Runs.retry`: somebody reads the journal of a run that failed or was cancelled, and lets it begin again: `worker/again.py`."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import Moves
from simulation.attempts import Attempts
from simulation.explorer import Kind, Move
from simulation.requests import KEYS, REOPENED
from simulation.rules import reopened
from simulation.world import NOBODY, Attempt, World

_AGAIN = ("failed", "cancelled")


class Reopenings(Attempts):
    """The one who asks is a process like others: it may die between what it does, or be slow."""

    def _reopens(self, world: World) -> Moves:
        if not world.may("reopen"):
            return
        for run in range(len(world.runs)):
            if self.env.of(world, run, "settled") in _AGAIN:
                who = Attempt(NOBODY, run, 0, "", "looks", what="reopen", process=f"reopen{sum(world.budget)}")
                asking = who._replace(todo=requests.binding(who.token, run, "read", "-"))
                yield Move(f"somebody looks at run {run}, to reopen it", Kind.FAULT, world.spend("reopen").having(asking))

    def _after_looks(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        found = self._absorbed(me, replies[0])
        undoing = bool(found.rolling) and self._to_undo(found) is not None
        anew = "" if undoing else ",".join(map(str, sorted(found.undone)))
        entry = f"{'undoing' if undoing else 'anew'}={anew} {requests.field(me.run)}".encode()
        times = int(self.env.of(world, me.run, "reopened") or 0) + 1
        asking = requests.store(me.run, "reopen", me.process, entry, f"{me.run}/{REOPENED * times}".encode(), times, undoing)
        if undoing or self.env.of(world, me.run, "settled") not in _AGAIN:
            yield Move("", Kind.STEP, world.swap(me, me._replace(phase="reopen", todo=asking)))
        else:
            yield Move("", Kind.STEP, world.swap(me, me._replace(phase="shows", replies=asking)))

    def _shows(self, world: World, me: Attempt) -> Moves:
        """The old end must not be taken for the new one. Celery stores nothing over SUCCESS."""
        if world.runs[me.run].shown != "SUCCESS":
            world = world.run(me.run, shown="SUSPENDED")
        asking = me._replace(phase="reopen", todo=me.replies, replies=(), wrote_state=True)
        yield self._step(me, "has SUSPENDED stored", world.swap(me, asking))

    def _after_reopen(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        if replies[0] == ("OK",):
            yield Move("", Kind.STEP, world.swap(me, me._replace(phase="publishes", todo=requests.take(me.run))))
            return
        refused = world.without(me)
        if me.wrote_state:
            refused = self._restored(refused, me.run)
            refused = refused.run(me.run, excused=True)  # whoever asked as well may have come first
        yield Move("", Kind.STEP, refused)

    def _after_publishes(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        done = world.without(me)
        if len(replies[0]) > 1:
            message = self.env.redis.data(world.redis).get(KEYS.messages, {}).get(requests.field(me.run))
            done = done.send(me.run, int(message.split("/")[1]), "ticket") if message else done
        yield Move("", Kind.STEP, done)

    def _network(self, world: World, me: Attempt) -> Moves:
        command = me.todo[0]
        for move in super()._network(world, me):
            wrong: tuple[str, ...] = ()
            again = self.env.of(world, me.run, "control") == me.process
            if me.phase == "reopen" and again and "reopen -> OK" not in move.label and "late" not in move.label:
                wrong = ("L5 a request that is sent again is not known again",)
            if me.phase == "reopen" and move.state.redis != world.redis:
                before, after = (self.env.redis.data(state.redis) for state in (world, move.state))
                wrong = tuple(reopened(before, after, me.run))
            yield move._replace(wrong=(*move.wrong, *wrong)) if command[1] == "reopen" else move
