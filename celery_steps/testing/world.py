"""What the testing kit runs tasks in: apps, a clock, a server, and the messages that are on their way."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import fakeredis
from celery import Celery, states

from celery_steps.engine.attempt import handling
from celery_steps.engine.entries import NEVER
from celery_steps.engine.event import Emission
from celery_steps.engine.identity import NO_INPUT, bind
from celery_steps.errors import StepsError
from celery_steps.runs import Runs
from celery_steps.store.keys import OPEN
from celery_steps.testing.clock import Clock
from celery_steps.testing.crashes import Crash
from celery_steps.testing.delivery import Message
from celery_steps.testing.sandbox import Sandbox
from celery_steps.times import epoch_ms
from celery_steps.worker import canvas, events, runtime, triggers
from celery_steps.worker.sweeper import sweep

#: Deliveries of one call of the kit's. A body that goes on for ever would keep a test for ever.
_MOST = 10_000
#: Scripts that write something new into a journal.
_RECORDING = {"commit", "receive", "retry", "finish", "giveback"}
#: After so many rounds in which nothing is recorded, time passes at once to where something may be.
_IDLE = 3

W = TypeVar("W", bound="World")


class World:
    """Everything of `Steps` that a test does not call."""

    def __init__(self, *apps: Celery, start: datetime | str | float | None = None) -> None:
        """
        Args:
            apps: to use from the start on.
            start: the time at which it begins: an aware datetime, ISO 8601 text with an offset, or seconds since 1970. Default:
                now.
        """
        self.clock = Clock(None if start is None else epoch_ms(start, "start"))
        self.server = fakeredis.FakeServer()
        self.calls: Counter[tuple[str, str, int]] = Counter()  # of handlers: by task id, key and occurrence
        self.sent: dict[str, Message] = {}  # by task id, the first of each
        self.states: dict[str, str] = {}  # of tasks, as Celery's tracer left them last, stored or not
        self.returned: dict[tuple[str, str, int], tuple[Any]] = {}  # by handlers, the last of each
        self.namespaces: set[str] = set()  # of steps
        self.emitted: dict[str, tuple[str, str, str]] = {}  # by event id: namespace, event, data
        self.between: Callable[[str, str], None] = lambda when, where: None  # hears of every boundary inside a delivery
        self._stubs: dict[tuple[str, str], Any] = {}
        self._answers: dict[str, Any] = {}
        self._sandboxes: dict[int, Sandbox] = {}
        self._queue: deque[Message] = deque()
        self._working = False
        self._delivering: Message | None = None  # to a durable task
        self._crashed = False  # the attempt that is being delivered
        self.deliveries = self._recorded = self._since = 0
        for app in apps:
            self.use(app)

    def __enter__(self: W) -> W:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def apps(self) -> list[Celery]:
        """The apps in use."""
        return [sandbox.app for sandbox in self._sandboxes.values()]

    def close(self) -> None:
        """Every app is as it was."""
        for sandbox in reversed(self._sandboxes.values()):
            sandbox.leave()
        self._sandboxes.clear()

    def use(self, app: Celery) -> None:
        """Take an app out of the world, for its tasks to run here. Apps of tasks that are started need not be told."""
        app = app._get_current_object() if hasattr(app, "_get_current_object") else app
        if id(app) in self._sandboxes:
            return
        app.loader.import_default_modules()  # as a worker does: children may be sent by name
        app.finalize()
        sandbox = Sandbox(app, self.server, self.clock, self._around)
        sandbox.enter(self._take)
        self._sandboxes[id(app)] = sandbox
        self._renew()
        store = runtime.of(app).store
        store.client.around = self._hear  # type: ignore[attr-defined]
        store.deliver = partial(self._emit, store.deliver)  # type: ignore[method-assign]

    # -- working ----------------------------------------------------------------------------------------------------

    def work(self) -> int | None:
        """Execute what is due now. Returns when something is due next, in ms since 1970, None: nothing is.

        From inside a handler nothing is executed: what is due is executed when its attempt is over.
        """
        if self._working:
            return None
        self._working = True
        try:
            return self._work()
        finally:
            self._working = False

    def pass_until(self, over: Callable[[], bool], until: int | None = None) -> None:
        """Let time pass from one due time to the next, until `over`, or nothing is due (before `until`, ms since 1970)."""
        self._since, idle = self.deliveries, 0
        while True:
            recorded = self._recorded
            due = self.work()
            idle = 0 if self._recorded != recorded else idle + 1
            if due is not None and idle > _IDLE:
                worth = self._worth_a_look()
                due = None if worth is None else max(due, worth)
            if over() or due is None or (until is not None and due > until):
                return
            self.clock.now_ms = max(self.clock.now_ms, due)
            self._renew()

    def _worth_a_look(self) -> int | None:
        """When something may happen next, None: nothing will. Not when a parent looks whether its child is still at work."""
        due = [message.due_ms for message in self._queue]
        for app in self.apps:
            for run in Runs(app).list(status=OPEN, limit=10_000).runs:
                if run.status in ("paused", "in_doubt"):
                    continue
                waits = Runs(app).get(run.id).waits
                ends = [wait.until for wait in waits if wait.until is not None]
                if not waits:
                    ends += [at for at in (run.wake_at, run.lease_until) if at is not None]
                due += [round(end.timestamp() * 1000) for end in ends]
        return min(due, default=None)

    # -- messages ---------------------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        """A message was sent."""
        self._boundary("before", f"sending {message.task}")
        self.sent.setdefault(message.id, message)
        self._queue.append(message)

    def _work(self) -> int | None:
        while True:
            message = next((message for message in self._queue if message.due_ms <= self.clock.now_ms), None)
            if message is not None:
                self._queue.remove(message)
                self.deliver(message)
                continue
            swept = [sweep(sandbox.app) for sandbox in self._sandboxes.values()]
            if any(one.published for one in swept) or self._answered():
                continue
            due = [message.due_ms for message in self._queue]
            due += [self.clock.now_ms + one.next_ms for one in swept if 0 <= one.next_ms < NEVER // 2]
            return min(due, default=None)

    def deliver(self, message: Message) -> None:
        """Deliver a message to its task. One that belongs to no app in use stays undelivered."""
        sandbox = next((sandbox for sandbox in self._sandboxes.values() if message.task in sandbox.app.tasks), None)
        if sandbox is None:
            return
        self.deliveries += 1
        if self.deliveries - self._since > _MOST:
            raise StepsError(f"{_MOST:,} deliveries, the last one to {message.task!r}, and it goes on: advance time bit by bit.")
        self._delivering = message if canvas.is_durable(sandbox.app.tasks[message.task]) else None
        self._crashed = False
        trace: Any = None
        try:
            # As in a process of its own: nothing of this test's context is in the task's.
            trace = Context().run(message.deliver, sandbox.app)
        except Crash:
            pass
        finally:
            self._delivering = None
        rejected = trace is not None and trace.info is not None and trace.info.state == "REJECTED"
        if self._crashed or (rejected and trace.info.retval.requeue):  # the broker brings it back
            self._queue.append(message.again(self.clock.now_ms + (1000 if rejected else 0)))
        elif trace is not None:
            self.states[message.id] = states.SUCCESS if trace.info is None else trace.info.state
        self._crashed = False

    def crash(self) -> NoReturn:
        """The process of the attempt that is being delivered is gone."""
        self._crashed = True
        raise Crash

    def duplicate(self, message: Message | None = None) -> None:
        """Deliver a message once more, by default that which is being delivered: in a thread, as another worker would."""
        message, delivering = message or self._delivering, self._delivering
        sandbox = next((one for one in self._sandboxes.values() if message is not None and message.task in one.app.tasks), None)
        if message is None or sandbox is None:
            return
        self._delivering = None
        try:
            with ThreadPoolExecutor(1) as other:
                other.submit(message.again(self.clock.now_ms).deliver, sandbox.app).result()
        finally:
            self._delivering = delivering

    def _answered(self) -> bool:
        answered = False
        for sandbox in self._sandboxes.values() if self._answers else ():
            store = runtime.of(sandbox.app).main_store
            for event, data in self._answers.items():
                for waiter in [waiter for page in store.waiting(event) for waiter in page]:
                    id = f"answer/{waiter.run}/{waiter.wait}"
                    reached = events.emit(sandbox.app, Emission(event, data, id, waiter.namespace))
                    answered = answered or bool(reached and self._queue)
        return answered

    def _around(self, step: Any, verb: str, handler: Callable[..., Any], *input: Any) -> Any:
        """Instead of each handler."""
        attempt = handling.get()
        run_id = "" if attempt is None else attempt.run_id
        named = f"the handler of {step.key!r}" + (f" (occurrence {step.sequence})" if step.sequence > 1 else "")
        self._boundary("before", named)
        self.namespaces.add(step.namespace)
        self.calls[run_id, step.key, step.sequence] += 1
        for place in ((run_id, step.key), ("", step.key)):
            if verb == "run" and place in self._stubs:
                value = _stubbed(step.key, self._stubs[place], input)
                break
        else:
            value = handler(*input)
        self.returned[run_id, step.key, step.sequence] = (value,)
        self._boundary("after", named)
        return value

    def _hear(self, when: str, what: list[str]) -> None:
        """Before and after each exchange with the store."""
        if when == "after" and not _RECORDING.isdisjoint(what):
            self._recorded += 1
        self._boundary(when, " and ".join(what))

    def _boundary(self, when: str, where: str) -> None:
        if self._crashed:  # what is left of it does nothing more
            raise Crash
        if self._delivering is not None:
            self.between(when, where)

    def _emit(self, deliver: Callable[..., Any], namespace: str, event: str, event_id: str, data: bytes, **more: Any) -> Any:
        if event:
            self.emitted.setdefault(event_id, (namespace, event, repr(data)))
        return deliver(namespace, event, event_id, data, **more)

    def _renew(self) -> None:
        """As every worker does once a minute: what starts on events is known for as long as somebody says so."""
        for app in self.apps:
            if any(getattr(task, "triggers", ()) for task in app.tasks.values()):
                triggers.renew(app)


def _stubbed(key: str, value: Any, input: tuple[Any, ...]) -> Any:
    if isinstance(value, BaseException):
        raise value
    if not callable(value):
        return value
    gets_input, _ = bind(key, input[0] if input else NO_INPUT, value)
    return value(*input) if gets_input else value()
