"""What is killed: an app with small durable tasks, and what must have come of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import redis
from celery import Celery, chord
from celery.exceptions import Ignore

from celery_steps import DurableTask, NotDone, RetryPolicy, current_step

REDIS = os.environ["CRASH_REDIS"]
BROKER, BACKEND, STORE = (f"{REDIS}/{database}" for database in range(3))

app = Celery("crash", broker=BROKER, backend=BACKEND)
app.conf.update(
    steps_backend=STORE,
    steps_partitions=1,
    steps_lease_ttl=1.0,
    steps_retention=600,
    steps_max_crashes=1000,
    # For how long Celery's chord waits for a process that was about to send its callback.
    broker_connection_timeout=0.5,
    result_chord_join_timeout=1,
)

_store = redis.Redis.from_url(STORE)
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
return redis.call('RPUSH', KEYS[1], ARGV[1] .. ' ' .. (last and last[1] or '0-0'))
"""


class Declined(Exception):
    """Caught by a body."""


class Broken(Exception):
    """Brings a retry."""


def effect(case: str, value: Any = None) -> Any:
    """What a handler does outside: it stays, whoever is killed. Noted with the journal's last entry at that moment."""
    step = current_step()
    what = f"{step.namespace} {step.key} {step.sequence} {step.idempotency_key} {os.getpid()}"
    _store.eval(_APPEND, 2, f"ledger:{case}", f"steps:{{0}}:journal:{step.namespace}", what)
    return value


def failing(case: str, error: Exception) -> NoReturn:
    effect(case)
    raise error


# -- tasks --------------------------------------------------------------------------------------------------------------


@app.task
def noted(result: Any = None, *, case: str) -> None:
    """A callback."""


@app.task(bind=True, base=DurableTask, track_started=True)
def plain(self: Any, case: str) -> list[int]:
    first = self.step.run("first", lambda: effect(case, 1))
    return [first, *(self.step.run("item", i, lambda i: effect(case, i * 10)) for i in (1, 2))]


@app.task(bind=True, base=DurableTask)
def branching(self: Any, case: str) -> str:
    try:
        self.step.run("pay", lambda: failing(case, Declined("no money")))
    except Declined as error:
        text = f"sorry: {error}"
        return str(self.step.run("apologise", lambda: effect(case, text)))
    return "paid"


@app.task(bind=True, base=DurableTask, autoretry_for=(Broken,), max_retries=5, default_retry_delay=0)
def retried(self: Any, case: str) -> int:
    first: int = self.step.run("first", lambda: effect(case, 1))

    def flaky() -> int:
        if self.request.retries < 1:
            failing(case, Broken("once more"))
        return int(effect(case, 2))

    second: int = self.step.run("flaky", flaky)
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return first + second


@app.task(bind=True, base=DurableTask, max_retries=3)
def reopened(self: Any, case: str) -> str:
    def pay() -> str:
        if self.request.retries:
            return str(effect(case, "paid"))
        failing(case, Declined("no money"))

    try:
        paid: str = self.step.run("pay", pay)
    except Declined as error:
        self.step.run("note", lambda: effect(case))
        raise self.retry(exc=error, countdown=0) from error
    return paid


@app.task(bind=True, base=DurableTask)
def borrowing(self: Any, case: str) -> list[str]:
    own = self.step.run("own", lambda: effect(case, "own"))
    shared = self.step.run("shared", lambda: effect(case, "shared"), namespace=f"pool-{case}")
    return [own, shared, self.step.run("last", lambda: effect(case, "last"))]


@app.task(bind=True, base=DurableTask, namespace="order-{case}")
def sharing(self: Any, case: str) -> list[str]:
    return [self.step.run(key, lambda: effect(case, "done")) for key in ("load", "charge")]


@app.task(bind=True, base=DurableTask)
def replaced(self: Any, case: str, round: int = 1) -> int:
    value: int = self.step.run("count", lambda: effect(case, round))
    if round < 3:
        raise self.replace(self.s(case=case, round=round + 1))
    return value


@app.task(bind=True, base=DurableTask)
def ignored(self: Any, case: str) -> None:
    self.step.run("only", lambda: effect(case))
    raise Ignore("enough")


@app.task(bind=True, base=DurableTask)
def failed(self: Any, case: str) -> None:
    self.step.run("first", lambda: effect(case))
    self.step.run("broken", lambda: failing(case, ValueError("for good")))


@app.task(bind=True, base=DurableTask)
def once(self: Any, case: str) -> str:
    self.step.run("first", lambda: effect(case))

    def at_the_bank(input: Any, key: str) -> str:
        if any(f" pay 1 {key} ".encode() in line for line in _store.lrange(f"ledger:{case}", 0, -1)):
            return "paid"
        raise NotDone

    self.step.run("pay", lambda: effect(case, "paid"), at_most_once=True, reconcile=at_the_bank)
    return str(self.step.run("last", lambda: effect(case, "done")))


@app.task(bind=True, base=DurableTask)
def tried(self: Any, case: str) -> int:
    def flaky() -> int:
        if current_step().try_number < 3:
            failing(case, Broken("once more"))
        return int(effect(case, 7))

    return int(self.step.run("flaky", flaky, retry=RetryPolicy(max_retries=1000, delay=0)))


@app.task(bind=True, base=DurableTask)
def undoing(self: Any, case: str) -> None:
    def undo(what: str) -> None:
        _store.rpush(f"undone:{case}", what)

    for what in ("flight", "hotel"):
        self.step.run(what, what, partial(effect, case), rollback=undo)
    self.step.run("mail", lambda: effect(case))
    raise ValueError("for good")


@app.task(bind=True, base=DurableTask)
def asleep(self: Any, case: str) -> int:
    first = self.step.run("before", lambda: effect(case, 1))
    self.step.sleep("nap", 1.1)
    return int(self.step.run("after", lambda: effect(case, first + 1)))


@app.task(bind=True, base=DurableTask)
def awaiting(self: Any, case: str) -> Any:
    self.step.run("before", lambda: effect(case))
    approved = self.step.wait_for_event("approved")
    return self.step.run("after", lambda: effect(case, approved))


@app.task(bind=True, base=DurableTask)
def approving(self: Any, case: str) -> Any:
    self.step.run("look", lambda: effect(case))
    self.step.emit("say", "approved", {"by": "ann"}, to=f"{case}-1")
    return self.step.run("file", lambda: effect(case, "filed"))


@app.task(bind=True, base=DurableTask)
def member(self: Any, case: str, number: int) -> int:
    return int(self.step.run("part", number, partial(effect, case)))


# -- what must come of them ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run's end. `result` is what the backend shows, None: nothing."""

    task: str
    id: str
    status: str
    result: tuple[str, Any] | None
    namespace: str = ""
    nestings: int = 1


@dataclass(frozen=True)
class Program:
    """`send` begins the runs of one case; `steps` are the (namespace, key, occurrence) that must be recorded in the end."""

    send: Callable[[str], Any]
    runs: Callable[[str], list[Run]]
    steps: list[tuple[str, str, int]]
    callbacks: int = 0
    failures: set[str] = field(default_factory=set)  # steps whose recorded outcome is a failure
    once: set[str] = field(default_factory=set)  # steps that have their effect at most once
    undone: list[str] = field(default_factory=list)  # in this order


def _sent(task: Any, **options: Any) -> Callable[[str], Any]:
    return lambda case: task.apply_async(kwargs={"case": case}, task_id=f"{case}-1", **options)


def _one(task: Any, status: str, result: tuple[str, Any] | None, **more: Any) -> Callable[[str], list[Run]]:
    return lambda case: [Run(task.name, f"{case}-1", status, result, **more)]


def _own(*steps: tuple[str, int]) -> list[tuple[str, str, int]]:
    return [("{case}-1", key, sequence) for key, sequence in steps]


def _linked(task: Any, **options: Any) -> Callable[[str], Any]:
    return lambda case: task.apply_async(kwargs={"case": case}, task_id=f"{case}-1", link=noted.s(case=case), **options)


def _link_error(case: str) -> None:
    failed.apply_async(kwargs={"case": case}, task_id=f"{case}-1", link_error=noted.si(case=case))


def _send_chord(case: str) -> None:
    header = [member.s(case=case, number=n).set(task_id=f"{case}-{n}") for n in (1, 2)]
    chord(header)(noted.s(case=case))


def _send_approval(case: str) -> None:
    awaiting.apply_async(kwargs={"case": case}, task_id=f"{case}-1")
    approving.apply_async(kwargs={"case": case}, task_id=f"{case}-2")


def _send_two(case: str) -> None:
    for n in (1, 2):
        sharing.apply_async(kwargs={"case": case}, task_id=f"{case}-{n}")


_SHARED: Callable[[str], list[Run]] = lambda case: [  # noqa: E731
    Run(sharing.name, f"{case}-{n}", "succeeded", ("SUCCESS", ["done", "done"]), f"order-{case}") for n in (1, 2)
]

PROGRAMS: dict[str, Program] = {
    "plain": Program(
        _sent(plain), _one(plain, "succeeded", ("SUCCESS", [1, 10, 20])), _own(("first", 1), ("item", 1), ("item", 2))
    ),
    "linked": Program(
        _linked(plain), _one(plain, "succeeded", ("SUCCESS", [1, 10, 20])), _own(("first", 1), ("item", 1), ("item", 2)), 1
    ),
    "branching": Program(
        _sent(branching),
        _one(branching, "succeeded", ("SUCCESS", "sorry: no money")),
        _own(("pay", 1), ("apologise", 1)),
        failures={"pay"},
    ),
    "retried": Program(_sent(retried), _one(retried, "succeeded", ("SUCCESS", 3)), _own(("first", 1), ("flaky", 1))),
    "reopened": Program(_sent(reopened), _one(reopened, "succeeded", ("SUCCESS", "paid")), _own(("pay", 1), ("note", 1))),
    "borrowing": Program(
        _sent(borrowing),
        _one(borrowing, "succeeded", ("SUCCESS", ["own", "shared", "last"])),
        [*_own(("own", 1), ("last", 1)), ("pool-{case}", "shared", 1)],
    ),
    "sharing": Program(_send_two, _SHARED, [("order-{case}", "load", 1), ("order-{case}", "charge", 1)]),
    "replaced": Program(_sent(replaced), _one(replaced, "succeeded", ("SUCCESS", 3), nestings=3), _own(("count", 1))),
    "ignored": Program(_sent(ignored), _one(ignored, "succeeded", None), _own(("only", 1))),
    "failed": Program(_link_error, _one(failed, "failed", ("FAILURE", "ValueError")), _own(("first", 1)), 1),
    "quiet": Program(_linked(plain, ignore_result=True), _one(plain, "succeeded", None), _own(("first", 1), ("item", 2)), 1),
    "once": Program(
        _sent(once), _one(once, "succeeded", ("SUCCESS", "done")), _own(("first", 1), ("pay", 1), ("last", 1)), once={"pay"}
    ),
    "tried": Program(_sent(tried), _one(tried, "succeeded", ("SUCCESS", 7)), _own(("flaky", 1))),
    "undoing": Program(
        _sent(undoing),
        _one(undoing, "failed", ("FAILURE", "ValueError")),
        _own(("flight", 1), ("hotel", 1), ("mail", 1)),
        undone=["hotel", "flight"],
    ),
    "asleep": Program(_sent(asleep), _one(asleep, "succeeded", ("SUCCESS", 2)), _own(("before", 1), ("after", 1))),
    "awaiting": Program(
        _send_approval,
        lambda case: [
            Run(awaiting.name, f"{case}-1", "succeeded", ("SUCCESS", {"by": "ann"})),
            Run(approving.name, f"{case}-2", "succeeded", ("SUCCESS", "filed")),
        ],
        [("{case}-1", "before", 1), ("{case}-1", "after", 1), ("{case}-2", "look", 1), ("{case}-2", "file", 1)],
    ),
    "chord": Program(
        _send_chord,
        lambda case: [Run(member.name, f"{case}-{n}", "succeeded", ("SUCCESS", n)) for n in (1, 2)],
        [("{case}-1", "part", 1), ("{case}-2", "part", 1)],
        1,
    ),
}
