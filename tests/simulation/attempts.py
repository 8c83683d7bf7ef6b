"""What an attempt does, request by request: PROTOCOL's client, and Celery around it."""

from __future__ import annotations

from typing import Any

from simulation.actor import Moves
from simulation.explorer import Kind, Move
from simulation.rules import broken
from simulation.waits import Waits
from simulation.world import NOBODY, Attempt, World


class Attempts(Waits):
    """Moves of the attempts of one world."""

    def moves(self, world: World) -> Moves:
        yield from self._deliveries(world)
        for me in dict.fromkeys(world.attempts):
            if not me.todo:
                for move in self._acts(world, me):
                    yield self._onward(move, me.name)
                continue
            named = self._named(world, me) if me.name == NOBODY else me
            for move in self._network(world.swap(me, named), named):
                yield self._onward(move, named.name)

    def _named(self, world: World, me: Attempt) -> Attempt:
        name = self.env.name(world)
        todo = tuple(tuple(argument.replace(NOBODY, name) for argument in command) for command in me.todo)
        return me._replace(name=name, todo=todo)

    def _acts(self, world: World, me: Attempt) -> Moves:
        """What it does by itself, until it sends the next request."""
        acts: Moves = getattr(self, f"_{me.phase.replace(' ', '_')}")(world, me)
        return acts

    def _onward(self, move: Move[World], name: str) -> Move[World]:
        """The move and all that follows from it without a choice, and without that anybody else could tell a difference."""
        while not move.wrong:
            those = (attempt for attempt in move.state.attempts if attempt.name == name)
            me = next((attempt for attempt in those if not attempt.todo and self._is_by_itself(move.state, attempt)), None)
            if me is None:
                break
            (then,) = self._acts(move.state, me)
            move = Move(f"{move.label}; {then.label.partition(') ')[2]}", move.kind, then.state, then.wrong)
        return move

    def _is_by_itself(self, world: World, me: Attempt) -> bool:
        body = self.scenario.bodies[me.run]
        if me.phase == "unopened":
            return body[me.position] not in "nm"
        if me.phase != "body" or world.may("stall") or self.scenario.started:
            return False
        return self._letter(me) in "suUVo.zwWk"

    def _deliveries(self, world: World) -> Moves:
        if sum(not attempt.is_main for attempt in world.attempts) >= self.scenario.workers:
            return
        for message in world.broker:
            run, retries, origin = message
            if origin == "later":
                continue
            taken = world._replace(broker=world.broker - {message})
            takes = Move(f"a worker takes run {run}, retries {retries}, {origin}", Kind.STEP, self._begin(taken, *message))
            yield self._onward(takes, NOBODY)
            if world.may("dup"):
                twice = taken.spend("dup").send(run, retries, "again")
                takes = Move(f"{takes.label}; it comes again", Kind.FAULT, self._begin(twice, *message))
                yield self._onward(takes, NOBODY)

    def _begin(self, world: World, run: int, retries: int, origin: str) -> World:
        me = Attempt(NOBODY, run, retries, origin, "unopened")
        if self.scenario.bodies[run] == "b":
            return world.having(self._borrow(me))
        if origin != "first" or retries:
            return world.having(self._claim(me, known_only=True))
        return self._write_started(world, me, owner=False)

    def _unopened(self, world: World, me: Attempt) -> Moves:
        body = self.scenario.bodies[me.run]
        if body == "n":
            run = world.runs[me.run]
            sent = world.run(me.run, callbacks=run.callbacks + 1)
            yield self._step(me, "returns without a verb; callbacks", sent.swap(me, me._replace(phase="unopened stores")))
            return
        if body[me.position] == "m" and not me.retries:
            plain = world.without(me).run(me.run, shown="RETRY").send(me.run, 1, "first")
            yield self._step(me, "raises before its first verb: a plain retry", plain)
        if body[me.position] == "m":
            me, world = me._replace(position=1), world.swap(me, me._replace(position=1))
        yield self._step(me, "comes to its first verb", world.swap(me, self._claim(me)))

    def _unopened_stores(self, world: World, me: Attempt) -> Moves:
        run = world.runs[me.run]
        stored = world.run(me.run, shown="SUCCESS", counted=run.counted + 1, excused=True)
        yield self._step(me, "is stored, unopened", stored.without(me))

    def _network(self, world: World, me: Attempt) -> Moves:
        command, *rest = me.todo
        after, reply, wrong = self.env.apply(world, command)
        name = command[1] if command[0] == "EVALSHA" else command[0]
        wrong = (*wrong, *broken(self.env.redis.data(world.redis), self.env.redis.data(after.redis), me, command, reply))
        replies = (*me.replies, reply)
        if name in ("claim", "borrow") and reply[0] not in ("OK", "FINISHED"):
            rest, replies = [], (reply, ())  # nobody looks at the journal then
        label = f"{me.name} (run {me.run}) {name} -> {_short(reply)}"
        if wrong:
            yield Move(label, Kind.STEP, after, wrong)
        elif rest:
            yield Move(label, Kind.STEP, after.swap(me, me._replace(todo=tuple(rest), replies=replies)))
        else:
            heard = me._replace(todo=(), replies=())
            handle = getattr(self, f"_after_{me.phase.replace(' ', '_')}")
            for move in handle(after.swap(me, heard), heard, replies):
                yield move._replace(label=f"{label}{move.label}")
        if world.may("late") and command[0] == "EVALSHA":
            copied = world.spend("late")
            yield Move(f"{name} of {me.name} is late", Kind.FAULT, copied._replace(late=copied.late | {command}))


def _short(reply: Any) -> str:
    if isinstance(reply, tuple):
        if reply and isinstance(reply[0], tuple):
            return f"{len(reply)} entries"
        return " ".join(str(part) for part in reply[:2])
    return str(reply)
