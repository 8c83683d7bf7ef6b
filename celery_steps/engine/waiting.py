"""Waiting without a worker: what a run waits for is recorded, and the run leaves until it may have come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import quote

from celery_steps.codec import PLAIN
from celery_steps.engine import entries as fmt
from celery_steps.engine import news
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.entries import Identity, Step
from celery_steps.engine.once import check_verb
from celery_steps.engine.pause import Pause, suspend
from celery_steps.errors import ResultError
from celery_steps.store.replies import Append, Await, Event

#: Rests as short as this, in ms, stay in the worker.
_SHORT = 1000


class Ended(NamedTuple):
    """What a wait came to."""

    ok: bool
    value: bytes  # encoded result or failure
    taken: Sequence[Event] = ()  # out of the inbox


class Wait:
    """One wait of one attempt. A verb says in `look` what it has come to by now."""

    verb = ""
    reads_inbox = False  # what it waits for comes through the inbox

    def __init__(self, attempt: Attempt, identity: Identity, about: str, deadline: int, asked: dict[str, Any]) -> None:
        """
        Args:
            about: the name of what is waited for; `asked` is what the caller said, recorded as the wait's input.
            deadline: ms since 1970, 0: none. The one that was recorded first holds.
        """
        self.attempt = attempt
        self.identity = identity
        self.about = about
        self.asked = asked
        self.begun = attempt.journal.waits.get(identity)
        self.deadline = deadline if self.begun is None else self.begun.deadline
        self.began = attempt.clock()
        self.detail = b"" if self.begun is None else self.begun.detail

    @property
    def name(self) -> str:
        """Names this wait among those of its run, in events that are for it alone."""
        return f"{quote(self.identity[0], safe='', errors='surrogatepass')}#{self.identity[1]}"

    @property
    def where(self) -> dict[str, Any]:
        return {"namespace": self.attempt.namespace, "key": self.identity[0], "sequence": self.identity[1]}

    @property
    def wake(self) -> int:
        """When somebody must look at the latest, in ms."""
        return self.deadline or fmt.NEVER

    @classmethod
    def start(cls, waits: Sequence[Wait]) -> None:
        """Record that they begin, in one commit: from now on their deadlines hold."""
        new = [(wait, entry) for wait in waits if (entry := wait.entry()) is not None]
        if new:
            attempt = waits[0].attempt
            attempt.append([("wait", entry) for _, entry in new], record=False)
            for wait, _ in new:
                wait.begun = attempt.journal.waits[wait.identity]

    @classmethod
    def prepare(cls, waits: Sequence[Wait], now: int, inbox: Sequence[Event]) -> None:
        """Called with all of one kind before each of them looks: what can be asked at once is."""

    def abandon(self) -> None:
        """Nobody wants to know any more what this comes to."""

    def look(self, now: int, inbox: Sequence[Event]) -> Ended | None:
        """What this wait has come to at `now`, None: it goes on."""
        raise NotImplementedError

    def awaits(self) -> list[Await]:
        """The events for which it is to be woken."""
        return []

    def entry(self) -> bytes | None:
        """Its packed entry, if it is not in the journal yet."""
        if self.begun is not None:
            return None
        return fmt.pack_wait(self.identity, self.verb, self.about, self.deadline, self.detail, self.began)

    def describe(self) -> dict[str, Any]:
        """For people: what is awaited, and until when."""
        until = datetime.fromtimestamp(self.deadline / 1000, timezone.utc).isoformat() if self.deadline else None
        return {"key": self.identity[0], "waiting_for": f"{self.verb} {self.about}".strip(), "until": until}

    def tell(self, step: Step) -> None:
        """Tell who listens what this came to: it is recorded."""
        name = "step_executed" if step.ok else "step_failed"
        if name in self.attempt.hears:
            error = None if step.ok else self.attempt.codec.decode_failure(step.value, **self.where)
            news.of_step(self.attempt, name, self.identity, self.verb, step.began, step.took, error=error)

    def value_of(self, step: Step) -> Any:
        """What the recorded outcome means to the caller; raises a recorded failure."""
        codec = self.attempt.codec
        if step.ok:
            return codec.decode(step.value, hint=PLAIN, **self.where)
        error = codec.decode_failure(step.value, **self.where)
        self.attempt.raised.append((error, self.identity))
        raise error


def recorded(attempt: Attempt, identity: Identity, verb: str) -> Step | None:
    """The outcome of this wait, if it is over."""
    step = attempt.journal.steps.get(identity)
    if step is not None:
        check_verb(attempt.namespace, step, verb)
    return step


def wait(wait: Wait) -> Any:
    """Wait for one thing: returns what it came to, or raises Suspended."""
    attempt, (key, sequence) = wait.attempt, wait.identity
    step = recorded(attempt, (key, sequence), wait.verb)
    if step is None:
        wait_for(attempt, [wait])
        step = attempt.journal.steps[key, sequence]
    else:
        news.of_replay(attempt, step)
    return wait.value_of(step)


def wait_for(attempt: Attempt, waits: Sequence[Wait], *, until_failure: bool = False, pauses: Sequence[Pause] = ()) -> None:
    """Until each has a recorded outcome, or one a recorded failure if that is enough. Raises Suspended where that takes long.

    With `pauses`, for which the run must leave in any case, it always does.
    """
    going = list(waits)
    while going or pauses:
        attempt.before_effect()
        now = attempt.now_ms()  # before the look: what came by a deadline is in the inbox then
        inbox = attempt.read_inbox() if any(wait.reads_inbox for wait in going) else []
        for kind in dict.fromkeys(type(one) for one in going):
            kind.prepare([one for one in going if type(one) is kind], now, inbox)
        ended: list[tuple[Wait, Ended]] = []
        free: Sequence[Event] = inbox
        for one in going:
            end = one.look(now, free)
            if end is not None:
                ended.append((one, end))
                free = [event for event in free if event not in end.taken] if end.taken else free
        if ended:
            record(attempt, ended)
        if until_failure and not pauses and not all(end.ok for _, end in ended):
            return
        over = [one for one, _ in ended]
        going = [one for one in going if one not in over]
        if going or pauses:
            _rest(attempt, going, pauses)


def record(attempt: Attempt, ended: Sequence[tuple[Wait, Ended]]) -> None:
    """Record what waits came to, and take their events out of the inbox, in one commit."""
    entries = [("step", pack_end(wait, end)) for wait, end in ended]
    over = [await_ for wait, _ in ended for await_ in wait.awaits()]
    taken = [event for _, end in ended for event in end.taken]
    try:
        commit(attempt, entries, over, taken)
    finally:
        for wait, _ in ended:
            if wait.identity in attempt.journal.steps:
                wait.tell(attempt.journal.steps[wait.identity])
    attempt.inbox = [event for event in attempt.inbox if event not in taken]


def commit(attempt: Attempt, entries: Sequence[tuple[str, bytes]], over: Sequence[Await], taken: Sequence[Event] = ()) -> None:
    """Record what waits came to. `over` is awaited no more, by no run of the namespace."""
    if not over and not taken:
        attempt.append(entries)
        return

    def send(before: str, after: str, ids: list[str]) -> Append:
        numbered = [(id, kind, data) for id, (kind, data) in zip(ids, entries, strict=True)]
        return attempt.store.receive(before, after, numbered, ended=over, taken=[event.id for event in taken])

    attempt.leaving(lambda: attempt.journal.write(send, entries))


def pack_end(wait: Wait, end: Ended) -> bytes:
    """The packed entry of what it came to."""
    attempt = wait.attempt
    try:
        asked = attempt.codec.encode(wait.asked, where="input", hint=PLAIN, **wait.where) if attempt.record_input else None
    except ResultError:  # too large: not stored
        asked = None
    took = attempt.clock() - wait.began
    return fmt.pack_step(wait.identity, None, end.ok, end.value, asked, wait.began, took, wait.verb)


def _rest(attempt: Attempt, going: Sequence[Wait], pauses: Sequence[Pause]) -> None:
    """Leave the worker; or stay, for a short rest in which nothing can come."""
    wake = min([*(wait.wake for wait in going), *(pause.wake for pause in pauses)])
    left = wake - attempt.now_ms()
    inbox = any(wait.reads_inbox for wait in going)
    if left <= _SHORT and not inbox and not pauses and attempt.store.skipped_ms is None:
        Wait.start(going)
        attempt.timer.sleep(max(0, left) / 1000)
        return
    begun = [("wait", entry) for wait in going if (entry := wait.entry()) is not None]
    told = [*(wait.describe() for wait in going), *(pause.told for pause in pauses)]
    found = {pause.status for pause in pauses}
    status = next((status for status in ("in_doubt", "paused") if status in found), "suspended")
    about = ", ".join(f"{one['waiting_for']} ({one['key']})" for one in told[:10])
    awaits = [event for wait in going for event in wait.awaits()]
    seen = attempt.inbox_seen if inbox else ""
    info = {**min(told, key=lambda one: one["until"] or "9"), "waits": told} if len(told) > 1 else told[0]
    suspend(attempt, about, wake, info, begun, awaits, seen, status)
