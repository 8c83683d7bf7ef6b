"""How an attempt comes to own the namespace, or learns why not."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import Moves, forgetting, is_executing
from simulation.endings import Endings
from simulation.explorer import Kind, Move
from simulation.requests import FUTURE
from simulation.standing import STANDING, absorbed
from simulation.world import NOBODY, Attempt, World


class Claims(Endings):
    """CLAIM and BORROW, and the journal that is read after them."""

    def _after_claim(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        reply, entries = replies
        verdict = reply[0]
        if verdict in ("LOST", "UNKNOWN") and me.pending == "abandoned":  # only Celery can be told
            yield Move("", Kind.STEP, world.without(me).run(me.run, shown="FAILURE"))
        elif verdict == "OK":
            yield from self._own(world, me, reply, entries)
        elif verdict == "UNKNOWN":
            yield Move("", Kind.STEP, self._write_started(world.without(me), me._replace(phase="unopened"), owner=False))
        elif verdict == "LOST":
            yield Move("", Kind.STEP, self._lost(world, me))
        elif verdict == "FINISHED":
            yield Move("", Kind.STEP, self._finished(world, me, reply[1], entries))
        elif verdict == "SETTLING":
            forgotten = self._unnamed(world.without(me), forgetting(me, "waits"))
            yield Move("", Kind.STEP, world.swap(me, forgotten))
        elif verdict == "SETTLED":
            yield Move(", puts the state back", Kind.STEP, self._restored(world.without(me), me.run))
        else:
            yield Move("", Kind.STEP, world.without(me))

    def _unnamed(self, world: World, me: Attempt) -> Attempt:
        return me if me.name in self.env.used(world) else me._replace(name=NOBODY, claims=0)

    def _waits(self, world: World, me: Attempt) -> Moves:
        """For whoever settles the run."""
        mine = self.env.of(world, me.run, "settler") == me.token  # a late copy of the claim has arrived
        if mine or self.env.of(world, me.run, "settling") != str(FUTURE) or self.env.of(world, me.run, "settled"):
            yield self._step(me, "looks again", world.swap(me, self._claim(me)))

    def _own(self, world: World, me: Attempt, reply: tuple[str, ...], entries: Any) -> Moves:
        fence, uid = reply[1], reply[2]
        mine = next((i for i, (id, (_, data, *_)) in enumerate(entries) if (id, data) == (f"{fence}-0", me.name)), None)
        if mine is None:  # gone, or another's after a failover
            yield Move("", Kind.STEP, self._lost(world, me))
            return
        if any(fields[0] in ("attempt", "borrow") for _, fields in entries[mine + 1 :]):
            yield Move(", another claimed", Kind.STEP, self._replaced(world, me))
            return
        wrong = []
        if any(a != me and is_executing(a) for a in world.attempts):
            wrong.append("S1 two owners")
        if not me.is_main and me.retries < self.env.retries(world, me.run):
            wrong.append("S4 a stale message runs the body")
        crashes = int(reply[4]) if len(reply) > 4 else 0
        me_now = self._absorbed(me, entries)._replace(fence=fence, uid=uid, n=0, crashes=crashes)
        if len(reply) > 6 and not me.fence:
            me_now = me_now._replace(told=int(reply[6].partition(".")[0] or -1) if reply[6] else -1)
        first = not me.fence
        world = world.swap(me, me_now)
        if first and not self._borrows(me):
            world = self._act(world, me_now)
        yield Move("", Kind.STEP, world, tuple(wrong))

    def _act(self, world: World, me: Attempt) -> World:
        """A run that has been claimed: does it go on?"""
        if me.rolling:  # its body is replayed to where the records end
            return world.swap(me, me._replace(phase="undoes", position=len(self.scenario.bodies[me.run])))
        if me.cancelled or me.verdict or me.crashes >= self.scenario.max_crashes:
            phase = "cancels" if me.cancelled else "fails"
            return world.swap(me, me._replace(phase=phase))
        me_now = me._replace(phase="body")
        if me.origin != "first" or me.retries:
            return self._write_started(world.without(me), me_now, owner=True)
        return world.swap(me, me_now)

    def _absorbed(self, me: Attempt, entries: Any) -> Attempt:
        known, waited = set(me.known), set(me.waited)
        cancelled, verdict, mine = me.cancelled, me.verdict, requests.field(me.run)
        for _, (kind, data, *_) in entries:
            if kind in STANDING:
                me = absorbed(me._replace(known=frozenset(known)), kind, data, mine)
                known = set(me.known)
                cancelled, verdict = (False, False) if kind == "reopen" and data.endswith(mine) else (cancelled, verdict)
            elif kind == "step":
                identity, _, value = data.rpartition(":")
                known.add((identity, value))
                me = me._replace(known=frozenset(known), doubts=me.doubts - {identity})
            elif kind == "suspend" and data.startswith(f"{me.run}:"):
                waited.add(int(data.split(":")[1]))
            elif kind == "cancel" and data.endswith(requests.field(me.run)):
                cancelled = True
            elif kind == "verdict" and data.endswith(requests.field(me.run)):
                verdict = True
        last = entries[-1][0] if entries else me.last
        return me._replace(known=frozenset(known), waited=frozenset(waited), cancelled=cancelled, verdict=verdict, last=last)

    def _after_borrow(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        reply, entries = replies
        if reply[0] == "OK":
            for move in self._own(world, me, reply, entries):
                now = next((a for a in move.state.attempts if a.name == me.name and a.fence), None)
                yield move if now is None else move._replace(state=move.state.swap(now, now._replace(phase="borrowed")))
        else:
            yield Move("", Kind.STEP, self._comes_back(world, me) if reply[0] == "HELD" else world.without(me))
