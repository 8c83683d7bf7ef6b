"""What must hold in every state: of the keys in Redis, and of the world around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from celery_steps.engine.entries import NEVER
from celery_steps.store.keys import FINAL, OPEN
from simulation import requests
from simulation.actor import READY, SHOWN, UNDOABLE
from simulation.environment import Environment
from simulation.redis_in_python import EXPIRING, Data
from simulation.requests import DATA, DUE, EVENT, KEYS, REOPENED, WAITING
from simulation.rules import CLAIMS, taken
from simulation.standing import doubts, standing_steps
from simulation.world import World

_PAUSES = ("pause", "unpause")
#: Entries that an attempt writes about its run.
_OF_A_RUN = ("step", "finish", "suspend", "retry", "intent", "undo")
#: With fewer crashes allowed, a run may end before its undos.
_FEW = 8
#: More than the bounds of any scenario allow.
MOST_CLAIMS = 12


class Checks:
    """The invariants of one scenario. Those of Redis alone are asked once a state of Redis."""

    def __init__(self, environment: Environment) -> None:
        self.env = environment
        self.scenario = environment.scenario
        self._seen: dict[int, tuple[str, ...]] = {}

    def wrong(self, world: World) -> Iterator[str]:
        found = self._seen.get(world.redis)
        if found is None:
            data = self.env.redis.data(world.redis)
            of_keys = self._of_journal if self._forgets else self._of_redis
            found = self._seen[world.redis] = tuple(of_keys(data))
        yield from found
        if not self._forgets:
            yield from self._of_celery(world)
        if self.scenario.loses_the_journal and not world.may("wipe") and KEYS.journal in self.env.redis.data(world.redis):
            yield "P7 a lost journal begins anew"
        data = self.env.redis.data(world.redis)
        if not self.scenario.loses and world.accepted:
            inbox = (event[3] for _, event in data.get(KEYS.inbox, ((), ""))[0])
            if not world.accepted <= {*taken(self.env.journal(world)), *inbox}:
                yield "E1 an event that was accepted is lost"

    @property
    def _forgets(self) -> bool:
        """Whether more than the journal can get lost: then nobody knows what there was."""
        return self.scenario.loses and not self.scenario.loses_the_journal

    def at_rest(self, world: World) -> bool:
        """Nothing is on its way, and what was begun is settled."""
        if world.attempts or world.broker:
            return False
        statuses = ((run, self.env.of(world, run, "status")) for run in range(len(world.runs)))
        return all(
            status is None or status in SHOWN or self._waits(world, run) or self._waits_for_a_person(world, run, status)
            for run, status in statuses
        )

    def _waits_for_a_person(self, world: World, run: int, status: str) -> bool:
        """Paused or in doubt, and nobody has answered that yet."""
        if status == "in_doubt":
            return any(step.startswith(f"{run}:") for step in doubts(self.env.journal(world)))
        asked = [kind for _, (kind, data, *_) in self.env.journal(world) if kind in _PAUSES and data == requests.field(run)]
        return status == "paused" and asked[-1:] == ["pause"]

    def _waits(self, world: World, run: int) -> bool:
        """Whether only an event from outside can bring it on: what it awaits is not there."""
        data = self.env.redis.data(world.redis)
        fields, name = data[KEYS.run], requests.field(run)
        asleep = fields[f"{name}:status"] == "suspended" and fields[f"{name}:wake"] == str(NEVER)
        own = tuple(f"{name} {token.partition('|')[2]}" for token in fields.get(f"{name}:await", "").split())
        events = (event for _, event in data.get(KEYS.inbox, ((), ""))[0])
        return asleep and not any(event[:2] == (EVENT, DATA.decode()) and event[2] in ("", *own) for event in events)

    # -- Redis ------------------------------------------------------------------------------------------------------

    def _of_journal(self, data: Data) -> Iterator[str]:
        entries = data.get(KEYS.journal, ((), ""))[0]
        if any(count > 1 for count in Counter(standing_steps(entries)).values()):
            yield "P1 a step is recorded twice"
        if sum(fields[0] in CLAIMS for _, fields in entries) > MOST_CLAIMS:
            yield "S10 claims without end"
        finished: set[str] = set()
        for _, fields in entries:
            run = fields[3] if fields[0] == "finish" else f"task/{fields[1].split(':')[0]}/0"
            if fields[0] in _OF_A_RUN and run in finished and "b" not in self.scenario.bodies:
                yield "P3 a finished run writes to its journal"
            if fields[0] == "finish":
                finished.add(run)
            elif fields[0] == "reopen":
                finished.discard(fields[1].rpartition(" ")[2])
        for run in range(len(self.scenario.bodies)):
            yield from self._of_undos(entries, run)

    def _of_undos(self, entries: Any, run: int) -> Iterator[str]:
        """Each once, newest first, none left out, and only what stands."""
        body, left, undone, given_up = self.scenario.bodies[run], [], [], False
        if not UNDOABLE & set(body):
            return
        for _, (kind, data, *rest) in entries:
            if kind == "step" and data.startswith(f"{run}:") and body[int(data.split(":")[1])] in UNDOABLE:
                left.append(int(data.split(":")[1]))
            elif kind == "undo" and data.startswith(f"{run}:"):
                at, how = int(data.split(":")[1]), data.split(":")[2]
                if at in undone:
                    yield "R1 an undo is recorded twice"
                elif not left or left[-1] != at:
                    yield "R2 an undo is recorded out of its turn"
                elif how == "done":
                    undone.append(left.pop())
                given_up = how != "done"
            elif kind == "reopen" and data.endswith(requests.field(run)):
                again = [int(at) for at in data.split(" ")[0].partition("=")[2].split(",") if at]
                left, undone, given_up = [at for at in left if at not in again], [at for at in undone if at not in again], False
            elif kind == "finish" and rest[-1] == requests.field(run):
                if data in ("failed", "cancelled") and left and not given_up and self.scenario.max_crashes > _FEW:
                    yield "R3 a run ends with something that it has not undone"
                if data == "succeeded" and undone:
                    yield "R4 a run succeeds that has undone something"

    def _of_redis(self, data: Data) -> Iterator[str]:
        yield from self._of_journal(data)
        fields = data.get(KEYS.run, {})
        entries = data.get(KEYS.journal, ((), ""))[0]
        if entries and fields.get("tip", " ").split()[0] != entries[-1][0]:
            yield "P4 the tip does not name the last entry"
        open_runs = 0
        for run in range(len(self.scenario.bodies)):
            status = fields.get(f"{requests.field(run)}:status")
            if status is not None:
                open_runs += f"{requests.field(run)}:settled" not in fields
                yield from self._of_run(data, run, status)
        if int(fields.get("open", 0)) != open_runs:
            yield "L3 the count of open runs is wrong"
        yield from self._of_waits(data, fields)
        yield from self._of_log(data)
        keys = {key for key in KEYS.all if key in data}
        expiring = data.get(EXPIRING, frozenset())
        if open_runs and expiring:
            yield "L3 keys expire while a run is open"
        if not open_runs and keys - expiring:
            yield "L3 keys of a finished namespace do not expire"

    def _of_waits(self, data: Data, fields: dict[str, str]) -> Iterator[str]:
        entries = data.get(KEYS.journal, ((), ""))[0]
        over = {fields[1].rpartition(":")[0] for _, fields in entries if fields[0] == "step"}
        known = Counter(taken(entries)) + Counter(event[3] for _, event in data.get(KEYS.inbox, ((), ""))[0])
        if any(count > 1 for count in known.values()):
            yield "E2 an event is there twice"
        waiters, matches = set(), set()
        for run in range(len(self.scenario.bodies)):
            name = requests.field(run)
            waits = fields.get(f"{name}:await", "").split()
            of_run = {token.partition("|")[2] for token in waits}
            waiters |= {f"{requests.member(run)} {wait}" for wait in of_run}
            matches |= {f"{name}:match:{wait}" for wait in of_run}
            if len(of_run) < len(waits) or fields.get(f"{name}:await") == "":
                yield "E5 a wait is registered twice, or no wait"
            if of_run and (f"{name}:outcome" in fields or over & of_run):
                yield "E5 a wait that is over is registered"
            if not of_run and fields.get(f"{name}:wake") == str(NEVER) and fields[f"{name}:status"] == "suspended":
                yield "E5 a run waits for an event and is not registered"
        if waiters != set(data.get(WAITING, {})) or matches != {field for field in fields if ":match:" in field}:
            yield "E5 the index of those who wait is wrong"

    def _of_run(self, data: Data, run: int, status: str) -> Iterator[str]:
        name, member = requests.field(run), requests.member(run)
        held = data.get(KEYS.held, {})
        settled = f"{name}:settled" in data[KEYS.run]
        waits_behind = name in held and min(held, key=held.__getitem__) != name
        ticket = member in data.get(DUE, {})
        if status == "running" and f"{name}:outcome" not in data[KEYS.run] and _rolls(data, name):
            yield "R5 a run that only undoes is shown as running"
        if settled and ticket:
            yield "L2 a settled run has a ticket"
        fields = data[KEYS.run]
        owns = fields.get("owner", "") and fields.get("owner_run") == name and fields["lease"] != "0"
        if name in held and (owns or f"{name}:outcome" in fields):
            yield "L2 a run is held that owns the namespace or has an outcome"
        if waits_behind and ticket:
            yield "L2 a run behind the head of held has a ticket"
        newest = int(fields.get(f"{name}:retries", 0)) + REOPENED * int(fields.get(f"{name}:reopened", 0))
        if data.get(KEYS.messages, {}).get(name) != f"{run}/{newest}":
            yield "S4 the stored message is not the newest"
        if not settled and not ticket and not waits_behind:
            yield "L1 an open run has no ticket"
        if [s for s in OPEN + FINAL if member in data.get(requests.STORE.keys.status(0, s), {})] != [status]:
            yield "L4 the index by status is wrong"

    # -- Celery -----------------------------------------------------------------------------------------------------

    def _of_celery(self, world: World) -> Iterator[str]:
        quiet = not world.attempts and not world.broker and not world.late
        for number, run in enumerate(world.runs):
            status = self.env.of(world, number, "status")
            if status is None:
                continue
            if run.callbacks > 1 and not run.excused:
                yield "S3 callbacks are sent twice"
            if run.counted > 1 and not run.excused:
                yield "S3 the chord counts twice"
            settled = self.env.of(world, number, "settled")
            if settled == "succeeded" and run.cancelled:
                yield "S5 a cancelled run succeeds"
            recorded = self._recorded(world, number)
            if settled == "failed" and recorded == "succeeded" and "unsent" not in self.scenario.faults:
                yield "O4 a run that has succeeded is settled as failed"
            if settled is None or self._ignores(number):
                continue
            if settled == "succeeded" and not run.callbacks:
                yield "S3 callbacks are never sent"
            hidden = run.excused and run.shown not in READY  # a stalled owner wrote, before anybody had an outcome
            if quiet and run.shown != SHOWN[settled] and not hidden:
                yield f"S2 {run.shown or 'nothing'} is shown of a run that {settled}"
            if settled == "failed" and self._is_healthy(number):
                yield "S9 a healthy run failed"

    def _of_log(self, data: Data) -> Iterator[str]:
        """What the body tells is written once, and all of it where the run succeeds."""
        lines = [fields[1] for _, fields in data.get(KEYS.log, ((), ""))[0]]
        if len(set(lines)) < len(lines):
            yield "T1 a line of the log is written twice"
        for run, body in enumerate(self.scenario.bodies):
            succeeded = data.get(KEYS.run, {}).get(f"{requests.field(run)}:status") == "succeeded"
            if succeeded and any(letter == "t" and f"{run}:{at}" not in lines for at, letter in enumerate(body)):
                yield "T2 a line of the log is lost"

    def _recorded(self, world: World, run: int) -> str:
        ends = (fields for _, fields in self.env.journal(world) if fields[0] == "finish" and fields[-1] == requests.field(run))
        return next((fields[1] for fields in reversed(tuple(ends))), "")

    def _ignores(self, run: int) -> bool:
        return "i" in self.scenario.bodies[run]

    def _is_healthy(self, run: int) -> bool:
        harmless = not {"limit", "unsent", "wipe"} & set(self.scenario.faults)
        return harmless and not set("xfYk") & set(self.scenario.bodies[run])


def _rolls(data: Data, name: str) -> bool:
    """Whether the run only undoes: a rollback has begun since it was last reopened."""
    entries = data.get(KEYS.journal, ((), ""))[0]
    kinds = [kind for _, (kind, about, *_) in entries if kind in ("rollback", "reopen") and about.endswith(name)]
    again = [about for _, (kind, about, *_) in entries if kind == "reopen" and about.endswith(name)]
    return kinds[-1:] == ["rollback"] or bool(kinds and again and again[-1].startswith("undoing"))
