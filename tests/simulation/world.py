"""The state of a world: attempts, broker, results and Redis, and the bounds of what may happen in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from simulation.redis_in_python import Command

#: What may go wrong, each as often as the scenario says.
FAULTS = (
    "crash",  # a process is gone
    "dup",  # the broker delivers a message a second time
    "loss",  # the broker loses a message, or the sweeper dies before it publishes
    "late",  # a request lies in the network, while its sender sends it again or is gone
    "stall",  # a process stands still while its lease runs out
    "event",  # comes for the namespace
    "noise",  # the same, with data that no wait matches
    "child",  # of a run has ended
    "broadcast",  # an event comes for one of those who wait for it
    "cancel",  # somebody asks for it
    "pause",  # the same
    "unpause",  # the same
    "resolve",  # somebody says what became of a step in doubt, or has it run again
    "handover",  # the worker shuts down, and waits for the end of what it executes
    "reopen",  # somebody lets a failed or cancelled run begin again
    "revoke",  # the same while the task is executing, with terminate
    "kill",  # a child dies, and the main process sees it
    "limit",  # the hard time limit
    "shutdown",  # a cold one: what the process owned is released
    "reject",  # the body raises Reject(requeue=True)
    "unstored",  # the result backend refuses
    "unsent",  # a callback cannot be published
    "wipe",  # keys are gone from Redis, those that the scenario names
    "failover",  # to a replica that lags behind
    "clock",  # of Redis steps back
)
#: Keys of a namespace, of which a wipe takes some.
EVERYTHING = ("journal", "run", "messages", "held")
_INDEX = {name: i for i, name in enumerate(FAULTS)}


#: Who has not sent anything yet: which of them does so first makes no difference.
NOBODY = "?"


class Attempt(NamedTuple):
    """A delivery that is being worked on, or a verdict of the main process. `phase` says what comes next."""

    name: str
    run: int
    retries: int
    origin: str  # first, ticket, again
    phase: str
    todo: tuple[Command, ...] = ()  # requests of one pipeline that are not answered yet
    replies: tuple[Any, ...] = ()
    # what it knows of the journal
    fence: str = ""
    uid: str = ""
    last: str = ""
    n: int = 0
    known: frozenset[tuple[str, str]] = frozenset()  # steps and their values
    waited: frozenset[int] = frozenset()
    inbox: tuple[tuple[str, ...], ...] = ()  # what it has read there and not taken
    seen: str = "0"  # how far it has read
    taking: tuple[str, ...] = ()  # the event in the append that is under way, and its id
    cancelled: bool = False
    paused: bool = False
    handed: bool = False  # over, to whoever claims next
    rolling: str = ""  # how the run ends, once it has undone what it did
    doubts: frozenset[str] = frozenset()  # steps that were begun at most once and have no outcome
    undone: frozenset[int] = frozenset()
    undo_failures: int = 0
    resting: str = ""  # why it suspends, where no verb waits
    told: int = -1  # the last word of the body that is written
    verdict: bool = False
    crashes: int = 0
    position: int = 0
    pending: str = ""  # the append that met another tip
    claims: int = 0
    stalled: bool = False
    wrote_state: bool = False  # in the result backend, where it may hide a final one
    warned: bool = False  # in the one handler that may still run after a cancel
    process: str = ""  # verdict: whose
    what: str = ""  # verdict

    @property
    def token(self) -> str:
        return f"{self.name}/1"

    @property
    def is_main(self) -> bool:
        return bool(self.what)


class Run(NamedTuple):
    """What lies outside Redis: Celery's result and what was sent."""

    shown: str = ""  # Celery's state
    callbacks: int = 0
    counted: int = 0  # chord
    excused: bool = False  # a crash lay between callbacks and result, which Celery does not close either
    cancelled: bool = False  # somebody was told so


class World(NamedTuple):
    redis: int
    attempts: tuple[Attempt, ...]
    broker: frozenset[tuple[int, int, str]]  # run, retries, origin
    runs: tuple[Run, ...]
    late: frozenset[Command]
    budget: tuple[int, ...]
    replica: int = -1
    ever: frozenset[str] = frozenset()  # steps once recorded, where the journal may be wiped
    accepted: frozenset[str] = frozenset()  # ids of events
    called: frozenset[str] = frozenset()  # handlers that may be called once, and were

    def may(self, fault: str) -> bool:
        return self.budget[_INDEX[fault]] > 0

    def spend(self, fault: str) -> World:
        i = _INDEX[fault]
        return self._replace(budget=(*self.budget[:i], self.budget[i] - 1, *self.budget[i + 1 :]))

    def without(self, attempt: Attempt) -> World:
        left = list(self.attempts)
        left.remove(attempt)
        return self._replace(attempts=tuple(left))

    def having(self, attempt: Attempt) -> World:
        return self._replace(attempts=tuple(sorted((*self.attempts, attempt))))

    def swap(self, old: Attempt, new: Attempt) -> World:
        return self.without(old).having(new)

    def run(self, number: int, **changes: Any) -> World:
        runs = list(self.runs)
        runs[number] = runs[number]._replace(**changes)
        return self._replace(runs=tuple(runs))

    def send(self, run: int, retries: int, origin: str) -> World:
        return self._replace(broker=self.broker | {(run, retries, origin)})


@dataclass(frozen=True)
class Scenario:
    """Bounds: the bodies of the runs, and how often each fault may happen.

    A body is a word: s step, z sleep, y raises and is retried once, Y raises always (one retry), x raises what is final,
    f does so or not, i Ignore, q Reject(requeue) or not, m raises before its first verb on the first try, k kills its
    process, n returns without a verb, o step at most once, u step with an undo, U one whose undo fails or not, V one whose undo
    fails always, t tells a line of its log, w waits for an event, W until a
    deadline, b borrows the namespace for run 0's first step.
    """

    bodies: tuple[str, ...]
    faults: dict[str, int] = field(default_factory=dict)
    workers: int = 2
    max_crashes: int = 9
    wiped: tuple[str, ...] = EVERYTHING
    started: bool = False  # track_started

    def __str__(self) -> str:
        words = ["+".join(self.bodies), *(f"{name}={count}" for name, count in self.faults.items())]
        words += [
            f"{name}={getattr(self, name)}"
            for name in ("workers", "max_crashes")
            if getattr(self, name) != getattr(Scenario, name)
        ]
        words += ["started"] if self.started else []
        words += [f"of {'+'.join(self.wiped)}"] if "wipe" in self.faults else []
        return " ".join(words)

    @property
    def loses(self) -> bool:
        """Whether Redis itself may lose what it was told."""
        return "wipe" in self.faults or "failover" in self.faults

    @property
    def loses_the_journal(self) -> bool:
        """Only that, so that everybody can notice."""
        return "wipe" in self.faults and self.wiped == ("journal",)

    @property
    def judges(self) -> bool:
        """Whether the main process may kill a child that has not acknowledged yet."""
        return not {"kill", "limit", "revoke"}.isdisjoint(self.faults)


def bounds(bodies: str, *, wiped: tuple[str, ...] = EVERYTHING, **options: int) -> Scenario:
    """A scenario, written short: bodies joined by +, faults and the other bounds by name."""
    faults = {name: options.pop(name) for name in FAULTS if name in options}
    flags = {name: bool(options.pop(name)) for name in ("started",) if name in options}
    return Scenario(tuple(bodies.split("+")), faults, wiped=wiped, **flags, **options)  # type: ignore[arg-type]
