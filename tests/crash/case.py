"""One case: some kills, and what the broker and the worker's main process do about them until nothing is left to do."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_steps.engine.entries import pack_control
from celery_steps.store.keys import RunId
from celery_steps.worker.process import token_prefix
from celery_steps.worker.sweeper import sweep
from crash.lanes import Exit, Lane, Spawn
from crash.programs import app, noted

if TYPE_CHECKING:
    from crash.every_point import Crashes

#: What the broker and the main process do about a delivery whose process is dead.
REACTIONS = ("verdict", "redelivered", "forgotten")
DONE, REQUEUE, TROUBLE = 0, 2, 3
#: Stands for the name of a case in messages that are sent once and used for all.
TEMPLATE = "THE-CASE"
#: In seconds; the lease is one.
LONGEST_WAIT = 20


def hostname_of(case: str) -> str:
    """The worker of a case."""
    return f"node@{case}"


def app_name_of(case: str) -> str:
    """Its app: only its own tickets are swept. With what keys cannot hold as it is."""
    return f"app {{of}} {case}: ü"


@dataclass
class Parcel:
    """A message in the broker."""

    raw: bytes
    redelivered: bool = False

    @property
    def content(self) -> Any:
        return json.loads(self.raw)

    @property
    def run(self) -> RunId:
        headers = self.content["headers"]
        return RunId(headers["task"], headers["id"], headers.get("replaced_task_nesting") or 0)


class Case:
    """The broker and the main process of one case."""

    def __init__(self, crashes: Crashes, name: str, kills: deque[int], reaction: str) -> None:
        self.crashes = crashes
        self.name = name
        self.kills = kills
        self.reaction = reaction
        self.undisturbed = not kills
        self.due = crashes.store.keys.due(0, app_name_of(name))
        self.queue: deque[Parcel] = deque()
        self.seen: list[Parcel] = []
        self.callbacks = 0
        self.excused = 0
        self.story: list[str] = []
        self.passed = 0

    @property
    def who(self) -> str:
        return f"{self.name} ({'; '.join(self.story)})"

    def lane(self) -> Lane:
        if self.crashes.messages:
            self.post(self.crashes.messages)
        else:
            yield self.spawn(self.send, mortal=False)
        for _ in range(60):
            self.collect()
            if self.queue:
                yield from self.handle(self.queue.popleft())
                continue
            due = self.crashes.judge.ledger.zrange(self.due, 0, 0, withscores=True)
            if not due:
                break
            wait = due[0][1] / 1000 - time.time()
            if wait > LONGEST_WAIT:
                self.crashes.judge.findings.lost.append(f"{self.who}: its ticket is due in {wait} s")
                break
            if wait > 0:
                yield wait + 0.001
            else:
                yield from self.watched("sweep", self.sweep)
        else:
            self.crashes.judge.findings.lost.append(f"{self.who}: it does not come to an end")
        yield from self.duplicates()
        self.close()

    def post(self, messages: list[bytes]) -> None:
        """As if they had been sent for this case."""
        for raw in messages:
            content = json.loads(raw.replace(TEMPLATE.encode(), self.name.encode()))
            body = base64.b64decode(content["body"]).replace(TEMPLATE.encode(), self.name.encode())
            content["body"] = base64.b64encode(body).decode()
            self.crashes.broker.lpush(self.name, json.dumps(content))

    def send(self) -> int:
        self.crashes.program.send(self.name)
        return DONE

    def sweep(self) -> int:
        sweep(app)
        return DONE

    def spawn(self, work: Callable[[], int], mortal: bool = True) -> Spawn:
        fatal = self.kills[0] if mortal and self.kills else 0
        return Spawn(lambda memory: self.crashes.child(self.name, memory, fatal, work))

    def watched(self, what: str, work: Callable[[], int]) -> Generator[Any, Any, Exit]:
        """A process that may be killed. Returns how it ended."""
        exit: Exit = yield self.spawn(work)
        self.passed += exit.passed
        if exit.signal == signal.SIGKILL and self.kills and exit.passed == self.kills[0]:
            self.kills.popleft()
            self.crashes.judge.findings.kills += 1
            self.story.append(f"{what} killed: {exit.last}")
        elif exit.signal or exit.code not in (DONE, REQUEUE):
            self.crashes.judge.findings.wrong.append(f"{self.who}: {what} ended with {exit}")
        elif self.kills:
            self.kills[0] -= exit.passed
        return exit

    def handle(self, parcel: Parcel) -> Lane:
        run = parcel.run
        exit: Exit = yield from self.watched(f"deliver {run.id}", lambda: self.crashes.deliver(self.name, parcel))
        if exit.signal == signal.SIGKILL:
            self.after_kill(parcel, run, exit.pid)
        elif exit.code == REQUEUE:
            self.queue.append(Parcel(parcel.raw, redelivered=True))

    def after_kill(self, parcel: Parcel, run: RunId, pid: int) -> None:
        before = self.callbacks
        self.collect()
        if self.callbacks > before and not self.is_over(run):
            self.excused += self.callbacks - before
        store = self.crashes.store
        namespace = parcel.content["headers"].get("steps_namespace") or run.id
        open_or_over = store.status(namespace, run) is not None
        if self.reaction == "verdict":
            process = token_prefix(hostname_of(self.name), pid)
            verdict = store.verdict(
                namespace, run, process=process, what="lost", nonce=str(pid), entry=pack_control(str(run)), token="main"
            )
            if verdict.verdict != "CELERY":
                return
        if self.reaction == "forgotten" and open_or_over:
            return
        self.queue.append(Parcel(parcel.raw, redelivered=True))

    def is_over(self, run: RunId) -> bool:
        """Nothing can bring its callbacks again: Celery has stored the result.

        Where it stores none, or sends callbacks after it (those of failures and chords), the run must be settled.
        """
        expected = next(one for one in self.crashes.program.runs(self.name) if one.id == run.id)
        judge = self.crashes.judge
        if expected.result is None or expected.status == "failed" or self.crashes.name == "chord":
            return judge.settled(expected)
        return judge.stored(run.id) == expected.result

    def collect(self) -> None:
        """Take what was published from the broker."""
        while raw := self.crashes.broker.rpop(self.name):
            parcel = Parcel(raw)
            if parcel.content["headers"]["task"] == noted.name:
                self.callbacks += 1
            else:
                self.queue.append(parcel)
                self.seen.append(parcel)

    def duplicates(self) -> Lane:
        """The first and the last message come once more, after everything: nothing may come of it."""
        before = self.picture()
        exit: Exit = yield self.spawn(self.deliver_again, mortal=False)
        if exit.code != DONE or exit.signal:
            self.crashes.judge.findings.wrong.append(f"{self.who}: duplicates ended with {exit}")
        self.collect()
        if self.picture() != before:
            self.crashes.judge.findings.duplicates.append(f"{self.who}: duplicates changed {before} to {self.picture()}")

    def deliver_again(self) -> int:
        twice = enumerate([self.seen[0], self.seen[-1]])
        return max(self.crashes.deliver(self.name, Parcel(parcel.raw, bool(redelivered))) for redelivered, parcel in twice)

    def picture(self) -> Any:
        judge, program = self.crashes.judge, self.crashes.program
        ends = [(judge.stored(run.id), judge.settled(run)) for run in program.runs(self.name)]
        return len(judge.effects(self.name)), self.callbacks, ends, len(self.queue)

    def close(self) -> None:
        crashes, program = self.crashes, self.crashes.program
        found = crashes.judge.findings
        found.cases += 1
        crashes.judge.judge(self.name, program, self.who)
        if self.callbacks < program.callbacks:
            found.lost.append(f"{self.who}: {self.callbacks} callbacks instead of {program.callbacks}")
        elif self.callbacks > program.callbacks + self.excused:
            found.duplicates.append(f"{self.who}: {self.callbacks} callbacks instead of {program.callbacks}")
        found.callbacks_again += self.callbacks - program.callbacks
        effects = len(crashes.judge.effects(self.name))
        if self.undisturbed:
            crashes.points, crashes.undisturbed = self.passed, effects
        found.repeated += effects - crashes.undisturbed
