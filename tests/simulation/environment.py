"""What happens around the attempts: broker, sweeper, time, requests that arrive late, and what Redis loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from celery_steps.engine.entries import NEVER
from simulation import asked, events, requests
from simulation.explorer import Kind, Move
from simulation.redis_in_python import EXPIRING, Command, Data, Redis, ScriptError
from simulation.requests import DUE, FAR, FUTURE, KEYS, NOW
from simulation.rules import sent
from simulation.standing import standing_steps
from simulation.world import FAULTS, Run, Scenario, World

#: Requests that compare an instant with the time, and the phase that waits for one.
_CLOCKED = frozenset(("claim", "borrow", "abandon", "settle", "waits"))
_AHEAD = frozenset((str(FUTURE), str(FAR)))


def normalise(data: Data) -> None:
    """Instants are over or to come, counters that only people read stand still: so that states meet again."""
    fields = dict(data.get(KEYS.run, {}))
    for name, value in fields.items():
        if name in ("lease", "turn_until") or name.endswith((":wake", ":settling")):
            fields[name] = _instant(value)
        elif name.endswith(":pushes"):
            fields[name] = "0"
        elif name.endswith(":attempts"):
            fields[name] = "1"
    if fields.get("owner") == "":
        for name in ("owner_fence", "owner_uid", "nonce"):
            fields.pop(name, None)
    if KEYS.held in data:
        order = sorted(data[KEYS.held].items(), key=lambda pair: pair[1])
        data[KEYS.held] = {name: float(i) for i, (name, _) in enumerate(order, 1)}
    if "arrivals" in fields:
        fields["arrivals"] = str(len(data.get(KEYS.held, ())))
    if KEYS.run in data:
        data[KEYS.run] = fields
    if DUE in data:
        data[DUE] = {name: float(_instant(str(int(at))) or 0) for name, at in data[DUE].items()}


def _instant(value: str) -> str:
    at = float(value or 0)
    if at <= NOW:
        return "0"
    return str(FUTURE if at <= FUTURE else FAR if at < NEVER else NEVER)


class Environment:
    """Moves of a scenario that are not an attempt's."""

    def __init__(self, scenario: Scenario, scripts: dict[str, str] | None = None) -> None:
        self.scenario = scenario
        self.redis = Redis(scripts or requests.scripts(), now_us=NOW * 1000, normalise=normalise)

    def start(self) -> World:
        return World(
            redis=0,
            attempts=(),
            broker=frozenset((run, 0, "first") for run in range(len(self.scenario.bodies))),
            runs=(Run(),) * len(self.scenario.bodies),
            late=frozenset(),
            budget=tuple(self.scenario.faults.get(name, 0) for name in FAULTS),
        )

    # -- looking at Redis -------------------------------------------------------------------------------------------

    def fields(self, world: World) -> dict[str, str]:
        found: dict[str, str] = self.redis.data(world.redis).get(KEYS.run, {})
        return found

    def of(self, world: World, run: int, name: str) -> str | None:
        return self.fields(world).get(f"{requests.field(run)}:{name}")

    def retries(self, world: World, run: int) -> int:
        """What its newest message counts."""
        return int(self.of(world, run, "retries") or 0) + requests.REOPENED * int(self.of(world, run, "reopened") or 0)

    def journal(self, world: World) -> tuple[tuple[str, tuple[str, ...]], ...]:
        entries: tuple[tuple[str, tuple[str, ...]], ...] = self.redis.data(world.redis).get(KEYS.journal, ((), ""))[0]
        return entries

    def edit(self, world: World, change: Callable[[Data], None]) -> World:
        data = dict(self.redis.data(world.redis))
        change(data)
        return world._replace(redis=self.redis.number(data))

    def set_fields(self, world: World, **values: str) -> World:
        def change(data: Data) -> None:
            data[KEYS.run] = {**data.get(KEYS.run, {}), **values}

        return self.edit(world, change)

    def due(self, world: World, run: int) -> World:
        def change(data: Data) -> None:
            data[DUE] = {**data[DUE], requests.member(run): 0.0}

        return self.edit(world, change)

    def name(self, world: World) -> str:
        """A name for a new process, of which neither Redis nor anybody alive has heard."""
        used = self.used(world)
        return next(name for name in "abcdefghijklmnop" if name not in used)

    def used(self, world: World) -> set[str]:
        """Names that anybody may have heard of."""
        used = {attempt.name for attempt in world.attempts} | {attempt.process[:1] for attempt in world.attempts}
        used |= {argument[0] for command in world.late for argument in command if argument[1:2] in ("/", "#")}
        for state in (world.redis, world.replica):
            fields = self.redis.data(state).get(KEYS.run, {}) if state >= 0 else {}
            tokens = (value for name, value in fields.items() if name.endswith(("owner", "nonce", ":settler", "tip")))
            used |= {token.rpartition(" ")[2][:1] for token in tokens}
        return used

    def alive(self, world: World, token: str | None) -> bool:
        return any(attempt.token == token and not attempt.stalled for attempt in world.attempts)

    # -- moves ------------------------------------------------------------------------------------------------------

    def apply(self, world: World, command: Command) -> tuple[World, Any, tuple[str, ...]]:
        """A request reaches Redis."""
        state, reply = self.redis.call(world.redis, command)
        wrong = (f"S0 {command[1]}: {reply}",) if isinstance(reply, ScriptError) else ()
        wrong = (*wrong, *sent(self.redis.data(world.redis), self.redis.data(state), command))
        if command[1] == "reopen" and state != world.redis:
            run = next(run for run in range(len(world.runs)) if requests.field(run) == requests.arguments(command)[2])
            world = world.run(run, cancelled=False, callbacks=0, counted=0)
        world = world._replace(redis=state)
        if self.scenario.loses_the_journal:
            steps = set(standing_steps(self.journal(world)))
            world = world._replace(ever=world.ever | steps)
        return world, reply, wrong

    def moves(self, world: World) -> Iterator[Move[World]]:
        yield from self._broker(world)
        yield from self._sweeper(world)
        yield from self._time(world)
        for command in world.late:
            now = world._replace(late=world.late - {command})
            if command[1] == "deliver":
                yield from events.arrives(self, now, command)
            else:
                after, _, wrong = self.apply(now, command)
                yield Move(f"late {command[1]} of {' '.join(requests.arguments(command)[3:4])} arrives", Kind.FAULT, after, wrong)
        yield from asked.moves(self, world)
        yield from events.moves(self, world)
        yield from self._losses(world)

    def _broker(self, world: World) -> Iterator[Move[World]]:
        for message in world.broker:
            if message[2] == "later":
                back = world._replace(broker=world.broker - {message}).send(*message[:2], "ticket")
                yield Move(f"time: run {message[0]} comes back", Kind.TIME, back)
        if not world.may("loss"):
            return
        for message in world.broker:
            lost = world.spend("loss")
            yield Move(f"the broker loses {message}", Kind.FAULT, lost._replace(broker=lost.broker - {message}))

    def _sweeper(self, world: World) -> Iterator[Move[World]]:
        """SWEEP of what is due, and of each ticket that time makes due: nobody else looks at that."""
        tickets = self.redis.data(world.redis).get(DUE, {})
        if any(at <= NOW for at in tickets.values()):
            yield from self._sweeps(world, "SWEEP", Kind.STEP)
        fields = self.fields(world)
        for run in range(len(world.runs)):
            at = tickets.get(requests.member(run), 0)
            if NOW < at < NEVER and not self._renewed(world, fields, run):
                yield from self._sweeps(self.due(world, run), f"time: ticket of {run} due, SWEEP", Kind.TIME)

    def _sweeps(self, world: World, label: str, kind: Kind) -> Iterator[Move[World]]:
        after, reply, wrong = self.apply(world, requests.sweep()[0])
        if KEYS.run not in self.redis.data(world.redis) and set(self.redis.data(after.redis)) & {DUE, KEYS.run}:
            wrong = (*wrong, "L2 the ticket of a namespace that is gone stays")
        if world.may("loss"):
            yield Move(f"{label}, and the sweeper dies", Kind.FAULT, after.spend("loss"), wrong)
        messages = self.redis.data(after.redis).get(KEYS.messages, {})
        for taken in () if wrong else reply[1:]:
            run = next(run for run in range(len(world.runs)) if requests.member(run) == taken)
            message = messages.get(requests.field(run))
            if message:
                after = after.send(run, int(message.split("/")[1]), "ticket")
            elif not self.scenario.loses:
                wrong = (*wrong, "S8 a ticket without a message")
        yield Move(f"{label} and publish", kind, after, wrong)

    def _time(self, world: World) -> Iterator[Move[World]]:
        """An instant is over: offered when somebody is about to look at it, as no one else could tell the difference."""
        fields = self.fields(world)
        asking = {_asks(command) for command in world.late} | {
            _asks(a.todo[0]) if a.todo else (a.phase, requests.field(a.run)) for a in world.attempts
        }
        claims, names = {run for what, run in asking if what in ("claim", "waits")}, {what for what, _ in asking}
        if names.isdisjoint(_CLOCKED):
            return
        owner = fields.get("owner")
        for name, value in fields.items():
            if value not in _AHEAD:
                continue
            run_name = name.rpartition(":")[0]
            if name == "lease":
                if owner and fields["lease"] == str(FUTURE) and not self.alive(world, owner):
                    yield Move("time: the owner's lease is over", Kind.TIME, self.set_fields(world, lease="0"))
            elif run_name not in claims and run_name:
                continue
            elif name.endswith(":settling"):
                if fields[name] == str(FUTURE) and not self.alive(world, fields.get(f"{run_name}:settler")):
                    yield Move(f"time: settling lease of {run_name} over", Kind.TIME, self._unsettled(world, run_name))
            else:
                yield Move(f"time: {name} over", Kind.TIME, self.set_fields(world, **{name: "0"}))

    def _unsettled(self, world: World, run_name: str) -> World:
        """A settling lease is over. If its holder only stands still, callbacks may be sent again."""
        settler = self.fields(world).get(f"{run_name}:settler")
        for attempt in world.attempts:
            if attempt.token == settler:
                world = world.run(attempt.run, excused=True)
        return self.set_fields(world, **{f"{run_name}:settling": "0"})

    def _renewed(self, world: World, fields: dict[str, str], run: int) -> bool:
        name = requests.field(run)
        if fields.get("owner_run") == name and self.alive(world, fields.get("owner")):
            return True
        settling = f"{name}:settled" not in fields and fields.get(f"{name}:settling", "0") != "0"
        return settling and self.alive(world, fields.get(f"{name}:settler"))

    def _losses(self, world: World) -> Iterator[Move[World]]:
        data = self.redis.data(world.redis)
        if world.may("wipe") and KEYS.journal in data:
            gone = {getattr(KEYS, name) for name in self.scenario.wiped}

            def wipe(data: Data) -> None:
                for key in gone:
                    data.pop(key, None)
                data[EXPIRING] = data.get(EXPIRING, frozenset()) - gone

            wiped = self.edit(world.spend("wipe"), wipe)
            for attempt in world.attempts:
                if attempt.is_main or attempt.cancelled:  # Celery may have stored what nobody can record any more
                    wiped = wiped.run(attempt.run, excused=True)
            if "run" in self.scenario.wiped:
                wiped = _unleased(wiped)
            yield Move(f"{', '.join(self.scenario.wiped)} wiped", Kind.FAULT, wiped)
        if world.may("failover"):
            if world.replica != world.redis:
                yield Move("the replica catches up", Kind.FAULT, world._replace(replica=world.redis))
            if world.replica >= 0 and world.replica != world.redis:
                yield Move("failover", Kind.FAULT, _unleased(world.spend("failover")._replace(redis=world.replica)))
        if world.may("clock") and data:
            back = self.edit(_unleased(world.spend("clock")), _step_back)
            yield Move("the clock steps back", Kind.FAULT, back)


def _asks(command: Command) -> tuple[str, str]:
    """A request, and the run that it is about."""
    return command[1], requests.arguments(command)[2] if command[0] == "EVALSHA" else ""


def _unleased(world: World) -> World:
    """No lease that anybody has counts any more: bodies may run side by side, and callbacks be sent again."""
    stalled = tuple(sorted(attempt._replace(stalled=True) for attempt in world.attempts))
    return world._replace(attempts=stalled, runs=tuple(run._replace(excused=True) for run in world.runs))


def _step_back(data: Data) -> None:
    """All that was soon is far away; what was over stays over, as fences only rise."""
    if KEYS.run in data:
        data[KEYS.run] = {name: str(FAR) if value == str(FUTURE) else value for name, value in data[KEYS.run].items()}
    if DUE in data:
        data[DUE] = {name: float(FAR) if at == FUTURE else at for name, at in data[DUE].items()}
