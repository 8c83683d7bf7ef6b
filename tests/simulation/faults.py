"""What befalls an attempt: crashes, stalls, shutdowns, and the verdicts of the main process over a child that it killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulation import requests
from simulation.actor import BETWEEN, Moves, is_executing
from simulation.asked import told
from simulation.explorer import Kind, Move
from simulation.reopening import Reopenings
from simulation.requests import DUE, FUTURE, NOW
from simulation.world import FAULTS, NOBODY, Attempt, World

#: What a fault makes the main process say of its child.
VERDICTS = {"kill": "lost", "limit": "failed", "revoke": "cancelled"}
_SHOWN = {"failed": "FAILURE", "cancelled": "REVOKED"}


class Faults(Reopenings):
    """Attempts, and what may go wrong with them."""

    def moves(self, world: World) -> Moves:
        yield from super().moves(world)
        yield from self._reopens(world)
        for me in dict.fromkeys(world.attempts):
            if world.may("crash"):
                yield self._crash(world, me)
            if me.is_main:
                continue
            if world.may("shutdown"):
                yield self._shutdown(world, me)
            if world.may("stall") and not me.stalled:
                yield from self._stall(world, me)
            if not any(other.is_main for other in world.attempts):
                for fault, what in VERDICTS.items():
                    if world.may(fault):
                        yield self._killed(world, me, fault, what)

    def _dead(self, world: World, me: Attempt, fault: str) -> World:
        world = world.spend(fault).without(me)
        doubled = world.budget[FAULTS.index("dup")] < self.scenario.faults.get("dup", 0)
        closing = me.phase in BETWEEN or me.pending.startswith("close")
        between = closing or (me.phase == "settle" and doubled)
        return world.run(me.run, excused=True) if between else world

    def _crash(self, world: World, me: Attempt) -> Move[World]:
        again = self._dead(world, me, "crash")
        if me.what == "reopen":
            again = again.run(me.run, excused=again.runs[me.run].excused or me.wrote_state)
        again = again if me.what == "reopen" else again.send(me.run, me.retries, "again")
        return Move(f"{me.name} (run {me.run}) crashes in {me.phase!r}", Kind.FAULT, again)

    def _shutdown(self, world: World, me: Attempt) -> Move[World]:
        """A cold one: the child is killed, and the main process gives back what it held."""
        dead = self._dead(world, me, "shutdown").send(me.run, me.retries, "again")
        after, reply, wrong = self.env.apply(dead, requests.store(me.run, "release", f"{me.name}/", 0)[0])
        if reply[0] == 1 and self.env.redis.data(after.redis)[DUE][requests.member(me.run)] > NOW:
            wrong = (*wrong, "L5 a released run is not due")
        return Move(f"{me.name} (run {me.run}) is shut down in {me.phase!r}", Kind.FAULT, after, wrong)

    def _stall(self, world: World, me: Attempt) -> Iterator[Move[World]]:
        fields = self.env.fields(world)
        name = requests.field(me.run)
        stalled = world.spend("stall").swap(me, me._replace(stalled=True))
        stalled = stalled.run(me.run, excused=True) if me.phase in BETWEEN else stalled
        what = f"{me.name} (run {me.run}) stalls in {me.phase!r}"
        settles = fields.get(f"{name}:settler") == me.token and f"{name}:settled" not in fields
        if fields.get("owner") == me.token and fields["lease"] == str(FUTURE):
            after = self.env.set_fields(stalled, lease="0")
            after = self.env.due(after, me.run) if fields["owner_run"] == name else after
            yield Move(f"{what}, its lease is over", Kind.FAULT, after)
        elif settles and fields[f"{name}:settling"] == str(FUTURE):
            after = self.env.due(self.env.set_fields(stalled, **{f"{name}:settling": "0"}), me.run)
            yield Move(f"{what}, its settling lease is over", Kind.FAULT, after.run(me.run, excused=True))

    # -- verdicts ---------------------------------------------------------------------------------------------------

    def _killed(self, world: World, me: Attempt, fault: str, what: str) -> Move[World]:
        dead = self._dead(world, me, fault)
        process = "nobody/" if me.name == NOBODY else f"{me.name}/"
        main = Attempt(NOBODY, me.run, me.retries, me.origin, "verdict", process=process, what=what)
        entry = f"{main.name} {requests.field(me.run)}".encode()
        todo = requests.store(
            me.run, "verdict", process=process, what=what, nonce=f"{main.name}#0", entry=entry, token=main.token
        )
        if what == "cancelled":
            dead = told(dead, me.run)._replace(runs=dead.runs)
        return Move(
            f"{me.name} (run {me.run}) is killed in {me.phase!r}: {fault}", Kind.FAULT, dead.having(main._replace(todo=todo))
        )

    def _after_verdict(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        reply = replies[0]
        done = world.without(me)
        if reply[0] == "TAKEN":
            taken = me._replace(phase="pronounces", fence=reply[1], uid=reply[2], last=f"{reply[1]}-0", claims=1)
            if me.what == "cancelled":
                world = told(world, me.run)
            yield Move("", Kind.STEP, world.swap(me, taken), self._two_owners(world, me))
        elif reply[0] == "CELERY" and me.what == "lost":
            yield Move("", Kind.STEP, done.send(me.run, me.retries, "again"))
        elif reply[0] == "CELERY":
            yield Move("", Kind.STEP, done.run(me.run, shown=_SHOWN[me.what], excused=True))
        elif reply[0] == "NOTHING" and me.what == "cancelled":
            todo = requests.store(me.run, "control", what="cancel", nonce=f"{me.name}#1", entry=requests.field(me.run).encode())
            yield Move("", Kind.STEP, world.swap(me, me._replace(phase="controls", todo=todo)))
        else:
            yield Move("", Kind.STEP, done)

    def _two_owners(self, world: World, me: Attempt) -> tuple[str, ...]:
        return ("S1 two owners",) if any(a != me and is_executing(a) for a in world.attempts) else ()

    def _after_controls(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        done = world.without(me)
        yield Move("", Kind.STEP, told(done, me.run) if replies[0][0] == "OK" else done)

    def _pronounces(self, world: World, me: Attempt) -> Moves:
        """Celery stores the verdict; then the main process closes the run."""
        run = world.runs[me.run]
        stored = world.run(
            me.run, shown=_SHOWN[me.what], counted=run.counted + 1, callbacks=run.callbacks + (me.what == "failed")
        )
        after = self._closing(me, me.what, me.what)
        if self._undoable(self._absorbed(me, self.env.journal(world))):
            todo = (*self._roll(me, me.what), *requests.binding(me.token, me.run, "release", 0))
            after = me._replace(phase="leaves undos", todo=todo)
        yield self._step(me, f"has {me.what} stored", stored.swap(me, after))

    def _after_leaves_undos(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, world.without(me))
