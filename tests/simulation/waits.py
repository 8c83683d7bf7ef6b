"""Waits for an event: the inbox is read, and the run leaves only if nothing has come since."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import Moves, awaited
from simulation.bodies import Bodies
from simulation.explorer import Kind, Move
from simulation.world import Attempt, World


class Waits(Bodies):
    """As `engine/waiting.py`: before each look at the inbox, whether the run goes on at all."""

    def _verb_w(self, world: World, me: Attempt) -> Moves:
        todo = requests.binding(me.token, me.run, "inbox", me.seen)
        looking = me._replace(phase="inbox", todo=todo)
        yield self._before_effect(world, me) or self._step(me, "looks for an event", world.swap(me, looking))

    _verb_W = _verb_w

    def _after_inbox(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        read = tuple((id, *fields) for id, fields in replies[0])
        own = f"{requests.field(me.run)} "
        heard = me._replace(
            seen=read[-1][0] if read else me.seen,
            inbox=(*me.inbox, *(event for event in read if not event[3] or event[3].startswith(own))),
        )
        for move in self._look(world.swap(me, heard), heard):
            yield move._replace(label=f", {move.label.partition(') ')[2]}")

    def _look(self, world: World, me: Attempt) -> Moves:
        own = f"{requests.field(me.run)} {awaited(me).wait}"
        for id, name, data, to, event_id in me.inbox:
            if name == requests.EVENT and data == requests.DATA.decode() and to in ("", own):
                yield self._step(me, f"takes {event_id}", self._receives(world, me, (id, event_id)))
                return
        woken = sum(fields == ("suspend", f"{me.run}:{me.position}") for _, fields in self.env.journal(world))
        if self.scenario.bodies[me.run][me.position] == "W" and woken:
            yield self._step(me, "has waited until its deadline", self._receives(world, me, ("", "")))
            if woken > len(world.accepted):  # not every time by an event
                return
        yield self._suspends(world, me, "waits")

    def _receives(self, world: World, me: Attempt, event: tuple[str, str]) -> World:
        taking = me._replace(phase="receive", taking=event)
        return world.swap(me, taking._replace(todo=self._command(taking, "receive")))

    def _after_receive(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "receive", replies[0]))
