"""The body of a task, letter by letter, and the appends that it makes."""

from __future__ import annotations

from typing import Any

from simulation import requests
from simulation.actor import Moves, forgetting, value, without_taken
from simulation.claims import Claims
from simulation.explorer import Kind, Move
from simulation.requests import REOPENED
from simulation.standing import standing_steps
from simulation.undoing import TRIES
from simulation.world import Attempt, World


class Bodies(Claims):
    """Verbs, and what becomes of their appends."""

    # -- verbs ------------------------------------------------------------------------------------------------------

    def _body(self, world: World, me: Attempt) -> Moves:
        now = me._replace(position=self._position(me))
        letter = self._letter(me)
        yield from getattr(self, f"_verb_{'end' if letter == '.' else letter}")(world.swap(me, now), now)

    def _position(self, me: Attempt) -> int:
        """Where its body is, behind all that it only replays."""
        body, position = self.scenario.bodies[me.run], me.position
        done = {identity for identity, _ in me.known}
        while position < len(body) and (
            body[position] == "m" or (body[position] == "y" and me.retries % REOPENED) or f"{me.run}:{position}" in done
        ):
            position += 1
        return position

    def _letter(self, me: Attempt) -> str:
        return (self.scenario.bodies[me.run] + ".")[self._position(me)]

    def _verb_s(self, world: World, me: Attempt) -> Moves:
        yield self._before_effect(world, me) or self._handler(world, me)

    _verb_u = _verb_U = _verb_V = _verb_s

    def _before_effect(self, world: World, me: Attempt) -> Move[World] | None:
        """The last look before a handler is called. None: it is called."""
        if me.rolling:
            return self._step(me, "only undoes from here on", world.without(me))
        if me.cancelled:
            return self._step(me, "sees that it is cancelled", world.swap(me, me._replace(phase="cancels")))
        if me.stalled:
            return self._step(me, "has not heard of Redis for long", world.swap(me, self._renew(me, "handler")))
        if me.paused:
            return self._suspends(world, me._replace(resting="paused"), "sees that it is paused", me)
        if me.handed:
            return self._suspends(world, me._replace(resting="handover"), "hands over", me)
        return None

    def _verb_o(self, world: World, me: Attempt) -> Moves:
        """At most once: an intent, then the handler."""
        last = self._before_effect(world, me)
        if last is None and f"{me.run}:{me.position}" in me.doubts:
            last = self._suspends(world, me._replace(resting="in_doubt"), "is in doubt", me)
        intending = me._replace(phase="intend")
        yield last or self._step(me, "intends", world.swap(me, intending._replace(todo=self._command(intending, "intend"))))

    def _after_intend(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "intend", replies[0]))

    def _call(self, world: World, me: Attempt) -> Moves:
        identity = f"{me.run}:{me.position}"
        move = self._handler(world, me._replace(pending=""), me)
        wrong = (*move.wrong, *(("A1 a handler is called twice",) if identity in world.called else ()))
        yield move._replace(state=move.state._replace(called=world.called | {identity}), wrong=wrong)

    def _verb_t(self, world: World, me: Attempt) -> Moves:
        """A line of the log, which a replay does not say again."""
        if me.position <= me.told:
            yield self._step(me, "has told that", world.swap(me, me._replace(position=me.position + 1)))
            return
        id = f"{me.fence}-{me.position + 1}"
        todo = requests.binding(me.token, me.run, "tell", id, f"{me.position}.1", f"{me.run}:{me.position}".encode(), b"")
        yield self._step(me, "tells", world.swap(me, me._replace(phase="tell", todo=todo, told=me.position)))

    def _after_tell(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        """Whether it was written or not, the run goes on."""
        yield Move("", Kind.STEP, world.swap(me, me._replace(phase="body", position=me.position + 1)))

    def _handler(self, world: World, me: Attempt, was: Attempt | None = None) -> Move[World]:
        identity = f"{me.run}:{me.position}" if not self._borrows(me) else "0:0"
        wrong = []
        recorded = set(standing_steps(self.env.journal(world)))
        if not me.stalled and identity in recorded | (world.ever):
            wrong.append("P6 a handler runs again though its outcome is recorded")
        if world.runs[me.run].cancelled and not me.warned and not me.stalled:
            wrong.append("S5 a handler runs after a cancel")
        acting = me._replace(phase="commit", warned=False)
        acting = acting._replace(todo=self._command(acting, "commit"))
        return self._step(me, f"runs the handler of {identity}", world.swap(was or me, acting), *wrong)

    def _verb_z(self, world: World, me: Attempt) -> Moves:
        if me.position in me.waited:
            passed = me._replace(phase="commit")
            yield self._step(me, "has slept", world.swap(me, passed._replace(todo=self._command(passed, "commit"))))
            return
        yield self._suspends(world, me, "goes to sleep")

    def _suspends(self, world: World, me: Attempt, label: str, was: Attempt | None = None) -> Move[World]:
        going = me._replace(phase="suspend", wrote_state=self.scenario.started)
        if self.scenario.started:
            world = world.run(me.run, shown="SUSPENDED", excused=world.runs[me.run].excused or me.stalled)
        return self._step(me, label, world.swap(was or me, going._replace(todo=self._command(going, "suspend"))))

    def _verb_y(self, world: World, me: Attempt) -> Moves:
        """Raises: Celery decides between a retry and the end."""
        yield self._step(me, "raises", world.swap(me, self._renew(me, "raised")))

    _verb_Y = _verb_y
    _verb_x = _verb_y

    def _verb_f(self, world: World, me: Attempt) -> Moves:
        """Raises what is final, or not."""
        yield from self._verb_x(world, me)
        yield self._step(me, "does not raise", world.swap(me, me._replace(position=me.position + 1)))

    def _verb_i(self, world: World, me: Attempt) -> Moves:
        yield self._step(me, "raises Ignore", world.swap(me, self._closing(me, "ignored", "succeeded")))

    def _verb_q(self, world: World, me: Attempt) -> Moves:
        if world.may("reject"):
            todo = requests.binding(me.token, me.run, "release", requests.TTL_MS)
            rejecting = world.spend("reject").swap(me, me._replace(phase="rejects", todo=todo))
            yield Move(f"{me.name} raises Reject(requeue=True)", Kind.FAULT, rejecting)
        yield self._step(me, "does not reject", world.swap(me, me._replace(position=me.position + 1)))

    def _after_rejects(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, world.without(me).send(me.run, me.retries, "again"))

    def _verb_k(self, world: World, me: Attempt) -> Moves:
        yield self._step(me, "dies of its body", world.without(me).send(me.run, me.retries, "again"))

    def _verb_n(self, world: World, me: Attempt) -> Moves:
        yield self._step(me, "returns without a verb", world, "S8 a body without a verb leaves a trace")

    def _verb_end(self, world: World, me: Attempt) -> Moves:
        if me.cancelled:
            yield self._step(me, "sees that it is cancelled", world.swap(me, me._replace(phase="cancels")))
            return
        ending = me._replace(phase="finish")
        yield self._step(me, "returns", world.swap(me, ending._replace(todo=self._command(ending, "finish"))))

    def _borrowed(self, world: World, me: Attempt) -> Moves:
        if "0:0" in {identity for identity, _ in me.known}:
            todo = requests.borrower(me.token, me.run, "giveback", "", "", ())
            yield self._step(me, "knows the step", world.swap(me, me._replace(phase="giveback", todo=todo)))
        else:
            move = self._handler(world, me)
            now = next(a for a in move.state.attempts if a.name == me.name)
            giving = now._replace(phase="giveback", todo=self._command(now, "giveback"))
            yield move._replace(state=move.state.swap(now, giving))

    # -- appends ----------------------------------------------------------------------------------------------------

    def _after_commit(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "commit", replies[0]))

    def _after_suspend(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "suspend", replies[0][0]))

    def _after_retry(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "retry", replies[0][0]))

    def _after_finish(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        reply = replies[0][0]
        wrong = ("S5 a cancelled run succeeds",) if reply == 1 and world.runs[me.run].cancelled else ()
        yield Move("", Kind.STEP, self._written(world, me, "finish", reply), wrong)

    def _after_closes(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, me.pending, replies[0][0]))

    def _after_giveback(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        yield Move("", Kind.STEP, self._written(world, me, "giveback", replies[0][0]))

    def _written(self, world: World, me: Attempt, what: str, reply: int) -> World:
        if reply == -1:
            return self._lost(world, me)
        if reply == 0 and me.is_main:  # the ticket brings the run to its end, which Celery then stores once more
            return world.without(me).run(me.run, excused=True)
        if reply == 0:
            todo = requests.binding(me.token, me.run, "read", me.last)
            return world.swap(me, me._replace(phase="catch up", todo=todo, pending=what))
        if what == "intend":
            return world.swap(me, self._appended(me)._replace(phase="call", doubts=me.doubts | {f"{me.run}:{me.position}"}))
        if what == "undo":
            return self._tried_to_undo(world, me)
        if what in ("commit", "receive"):
            known = me.known | {(f"{me.run}:{me.position}", value(me))}
            return world.swap(me, self._appended(me)._replace(phase="body", known=known))
        if what == "suspend" and reply == 3:  # something came into the inbox
            return world.swap(me, me._replace(phase="body"))
        if what == "finish" and reply == 1:
            return world.swap(me, forgetting(me, "sends"))
        if reply == 2:  # another finished the run
            return self._replaced(world, me)
        return world.without(me)

    def _tried_to_undo(self, world: World, me: Attempt) -> World:
        if self._undo_succeeds(me):
            undone = me.undone | {self._to_undo(me) or 0}
            return world.swap(me, self._appended(me)._replace(phase="undoes", undone=undone, undo_failures=0))
        failed = self._appended(me)._replace(phase="undoes", undo_failures=me.undo_failures + 1)
        if failed.undo_failures < TRIES:
            failed = self._sending(failed._replace(phase="suspend", resting="undo"), "suspend")
        return world.swap(me, failed)

    def _appended(self, me: Attempt) -> Attempt:
        return without_taken(me)._replace(last=f"{me.fence}-{me.n + 1}", n=me.n + 1, pending="")

    # -- the tip moved ----------------------------------------------------------------------------------------------

    def _after_catch_up(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        entries = replies[0]
        if not entries or entries[0][0] != me.last:
            yield Move("", Kind.STEP, self._lost(world, me))
        elif any(fields[0] in ("attempt", "borrow") for _, fields in entries[1:]):
            yield Move(", another claimed", Kind.STEP, self._replaced(world, me))
        else:
            written = any(id == f"{me.fence}-{me.n + 1}" for id, _ in entries[1:])
            after = self._absorbed(me, entries[1:])
            if written:
                stays = {"commit": "", "receive": "", "undo": "", "intend": "call"}
                after = without_taken(after)._replace(pending=stays.get(me.pending, f"done {me.pending}"))
            again = self._borrow(after, "reclaim") if self._borrows(me) else self._reclaim(after)
            yield Move("", Kind.STEP, world.swap(me, again))

    def _after_reclaim(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        reply, entries = replies
        if reply[0] == "LOST":
            yield Move("", Kind.STEP, self._lost(world, me))
            return
        if reply[0] != "OK":
            yield Move("", Kind.STEP, self._replaced(world, me))
            return
        if self._borrows(me):
            entries = [entry for entry in entries if _order(entry[0]) > _order(me.last)]
            # BORROW knows no `expect`: whoever owned the namespace meanwhile may have recorded this step.
            if any(fields[0] in ("attempt", "borrow") and id != f"{reply[1]}-0" for id, fields in entries):
                yield Move(", another claimed", Kind.STEP, self._replaced(world, me))
                return
        for move in self._own(world, me, reply, entries):
            now = next((a for a in move.state.attempts if a.name == me.name), None)
            state = move.state if now is None or now.phase != "reclaim" else self._again(move.state, now)
            yield move._replace(state=state)

    def _again(self, world: World, me: Attempt) -> World:
        """The pending append under the new fence, unless it was there."""
        what = me.pending
        if not what:
            phase = "borrowed" if self._borrows(me) else "undoes" if me.rolling else "body"
            return world.swap(me, me._replace(phase=phase))
        if what in ("rolls", "call"):
            return world.swap(me, me._replace(phase="undoes" if what == "rolls" else "call", pending=""))
        if what.startswith("done"):
            return world.without(me)
        if me.cancelled and not me.rolling and what in ("suspend", "retry", "finish"):
            return world.swap(me, me._replace(phase="cancels", pending=""))
        if what in ("handler", "raised"):
            return self._renewed(world, me)
        phase = "closes" if what.startswith("close") else what
        sending = me._replace(phase=phase)
        return world.swap(me, sending._replace(todo=self._command(me, what), pending=what if phase == "closes" else ""))

    # -- renewing ---------------------------------------------------------------------------------------------------

    def _after_renew(self, world: World, me: Attempt, replies: tuple[Any, ...]) -> Moves:
        fence = int(replies[0])
        if not fence:
            yield Move(", lease lost", Kind.STEP, self._replaced(world, me))
            return
        me_now = me._replace(stalled=False)
        world = world.swap(me, me_now)
        if fence > int(me.fence):
            todo = requests.binding(me.token, me.run, "read", me.last)
            yield Move("", Kind.STEP, world.swap(me_now, me_now._replace(phase="catch up", todo=todo)))
        else:
            yield Move("", Kind.STEP, self._renewed(world, me_now))

    def _renewed(self, world: World, me: Attempt) -> World:
        then, me_now = me.pending, me._replace(pending="")
        if then == "handler":
            return world.swap(me, me_now._replace(phase="body"))
        if me.cancelled:
            return world.swap(me, me_now._replace(phase="cancels"))
        letter = self.scenario.bodies[me.run][me.position]
        if letter in "yY" and not me.retries % REOPENED:
            going = me_now._replace(phase="retry", wrote_state=True)
            return world.run(me.run, shown="RETRY").swap(me, going._replace(todo=self._command(going, "retry")))
        return world.swap(me, me_now._replace(phase="fails"))


def _order(id: str) -> tuple[int, ...]:
    return tuple(map(int, id.split("-")))
