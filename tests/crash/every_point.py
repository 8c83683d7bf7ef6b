"""Run one program again and again, and kill a process of it at another point each time.

`CRASH_REDIS=redis://127.0.0.1:6379 python -m crash.every_point plain 100 7`: program, how many double kills, seed; a last
argument `every` has each point killed with each reaction. Prints findings as JSON. Each delivery and sweep is a forked process;
this one plays the broker and the worker's main process.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from celery import signals
from celery._state import _set_task_join_will_block
from celery.app.trace import build_tracer, fast_trace_task, setup_worker_optimizations
from celery.exceptions import Reject
from celery.worker.request import Request
from kombu.message import Message

from celery_steps.worker import runtime
from crash.case import DONE, REACTIONS, REQUEUE, TEMPLATE, TROUBLE, Case, Parcel, app_name_of, hostname_of
from crash.lanes import Lane, Lanes, Spawn
from crash.outcome import Judge
from crash.points import Points
from crash.programs import BACKEND, BROKER, PROGRAMS, STORE, app

_SCRIPTS = ["claim", "commit", "suspend", "retry", "finish", "settle", "release", "renew", "abandon"]
_SCRIPTS += ["borrow", "giveback", "sweep", "receive", "deliver", "control"]


class Crashes:
    """One program's cases."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.program = PROGRAMS[name]
        self.store = runtime.of(app).store
        self.names = {self.store.client.script(script).sha: script for script in _SCRIPTS}
        self.broker: Any = redis.Redis.from_url(BROKER)
        self.judge = Judge(self.store, redis.Redis.from_url(STORE), redis.Redis.from_url(BACKEND))
        warm_up()
        self.messages: list[bytes] = []  # that begin a case, where each needs no more than its messages
        self.points = 0  # of the last case without a kill
        self.undisturbed = 0  # its effects

    # -- in a child -------------------------------------------------------------------------------------------------

    def child(self, case: str, memory: Any, fatal: int, work: Callable[[], int]) -> int:
        """The life of a forked process. Its app is this case's only: tickets and messages of others are not seen."""
        Points(memory, fatal, self.names).install()
        trouble: list[Any] = []
        signals.task_internal_error.connect(lambda **told: trouble.append(told), weak=False)
        app.main = app_name_of(case)
        app.conf.task_default_queue = case
        setup_worker_optimizations(app, hostname_of(case))
        _set_task_join_will_block(True)  # as in a worker
        code = work()
        return TROUBLE if trouble else code

    def deliver(self, case: str, parcel: Parcel) -> int:
        content = parcel.content
        message = Message(
            base64.b64decode(content["body"]),
            delivery_tag="tag",
            content_type=content["content-type"],
            content_encoding=content["content-encoding"],
            delivery_info={**content["properties"]["delivery_info"], "redelivered": parcel.redelivered},
            properties=content["properties"],
            headers=content["headers"],
        )
        task = app.tasks[content["headers"]["task"]]
        request = Request(message, app=app, hostname=hostname_of(case), task=task)
        failed, value, _ = fast_trace_task(
            task.name, request.id, request.request_dict, request.body, message.content_type, message.content_encoding
        )
        return REQUEUE if failed and isinstance(value.exception, Reject) and value.exception.requeue else DONE

    def record_messages(self, lanes: Lanes) -> None:
        """Send the messages of one case for all others: a process less for each."""

        def send() -> int:
            self.program.send(TEMPLATE)
            return DONE

        def lane() -> Lane:
            yield Spawn(lambda memory: self.child(TEMPLATE, memory, 0, send))

        lanes.drive(iter([lane()]))
        self.messages = self.broker.lrange(TEMPLATE, 0, -1)[::-1]
        assert self.messages, "nothing was sent"

    # -- a case -----------------------------------------------------------------------------------------------------

    def case(self, kills: tuple[int, ...], reaction: str) -> Lane:
        """Kill at the points `kills` (each counted from the kill before), react as `reaction`, until nothing is left to do."""
        case = f"{self.name}-{reaction}-{'-'.join(map(str, kills)) or 'none'}"
        return Case(self, case, deque(kills), reaction).lane()


def warm_up() -> None:
    """Have here what each forked process would else import and build anew; nothing that connects."""
    for module in ("kombu.transport.redis", "celery.app.routes", "celery.app.events", "celery.events", "celery.worker.state"):
        importlib.import_module(module)
    app.finalize()
    app.amqp  # noqa: B018
    app.backend  # noqa: B018
    for task in app.tasks.values():
        task.__trace__ = build_tracer(task.name, task, app=app)


def main(name: str, doubles: int, seed: int, every: bool) -> None:
    crashes = Crashes(name)
    lanes = Lanes(processes=2, lanes=24)
    chance = random.Random(seed)
    if name != "chord":  # each of those counts its members in the result backend, from the start
        crashes.record_messages(lanes)
    for reaction in REACTIONS:
        lanes.drive(iter([crashes.case((), reaction)]))
    # Each point once, with one reaction after the other; or each with all of them.
    turns = REACTIONS if every else ("",)
    singles = [((n,), turn or REACTIONS[n % len(REACTIONS)]) for turn in turns for n in range(1, crashes.points + 1)]
    lanes.drive(crashes.case(kills, reaction) for kills, reaction in singles)
    pairs = [(chance.randint(1, crashes.points), chance.randint(1, crashes.points)) for _ in range(doubles)]
    lanes.drive(crashes.case(kills, chance.choice(REACTIONS)) for kills in dict.fromkeys(pairs))
    json.dump({**dataclasses.asdict(crashes.judge.findings), "points": crashes.points}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["every"])
