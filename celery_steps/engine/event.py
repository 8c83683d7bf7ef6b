"""`step.wait_for_event` and `step.emit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from celery_steps.codec import PLAIN, Codec
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.identity import check_namespace, idempotency_key
from celery_steps.engine.once import run_step
from celery_steps.engine.waiting import Ended, Wait
from celery_steps.errors import StepsError
from celery_steps.store.replies import Await, Event
from celery_steps.times import duration, epoch_ms


class Emission(NamedTuple):
    """An event on its way: `to` one namespace, or whoever waits for it."""

    event: str
    data: Any
    id: str
    to: str | None = None
    app: str | None = None  # only tasks of this Celery app are started by it


class EventWait(Wait):
    """Over when a matching event came before the deadline, or the deadline has passed."""

    verb = "wait_for_event"
    reads_inbox = True

    def look(self, now: int, inbox: Sequence[Event]) -> Ended | None:
        own = f"{self.attempt.run} {self.name}"
        for event in inbox:
            # Nobody may have looked for long: what counts is when it came.
            in_time = not self.deadline or event.came_at_ms <= self.deadline
            if event.name == self.about and event.to in ("", own) and in_time:
                data = event_data(self.attempt.codec, event.name, event.data)
                if matches(self.asked["match"], data):
                    return Ended(True, self.attempt.codec.encode(data, hint=PLAIN, **self.where), [event])
        if self.deadline and now >= self.deadline:
            return Ended(True, self.attempt.codec.encode(None, hint=PLAIN, **self.where))
        return None

    def awaits(self) -> list[Await]:
        return [Await(self.about, self.name, encode_data(self.attempt.codec, self.about, self.asked["match"], "match"))]


def wait_for_event(
    attempt: Attempt,
    key: str,
    event: str | None,
    timeout: float | timedelta | str | None,
    until: datetime | str | float | None,
    match: Mapping[str, Any] | None,
) -> EventWait:
    """A wait for an event of that name, by default the key."""
    said_by = f"step.wait_for_event({key!r})"
    name = check_event(key if event is None else event, said_by)
    if timeout is not None and until is not None:
        raise StepsError(f"{said_by}: give timeout or until, not both.")
    if match is not None and not isinstance(match, Mapping):
        raise StepsError(f"{said_by}: match must be a dict of what the event's data must equal, not {match!r:.80}.")
    seconds = None if timeout is None else duration(timeout, f"{said_by}'s timeout")
    at = None if until is None else epoch_ms(until, f"{said_by}'s until")
    match = None if match is None else dict(match)
    encode_data(attempt.codec, name, match, f"{said_by}'s match")
    identity = attempt.identify("wait_for_event", key)
    end = at if seconds is None else attempt.now_ms() + int(seconds * 1000)
    deadline = 0 if end is None else max(1, end)  # 0 says that there is none
    return EventWait(attempt, identity, name, deadline, {"event": name, "timeout": seconds, "until": at, "match": match})


def emit(attempt: Attempt, key: str, event: str, data: Any, to: str | None, app: str | None) -> int:
    """Send an event as a step: once recorded, never again; sent twice by a crash, it counts once."""
    said_by = f"step.emit({key!r})"
    check_event(event, said_by)
    encode_data(attempt.codec, event, check_data(data, said_by), f"{said_by}'s data")
    if to is not None:
        check_namespace(to, f"{said_by}'s to")
    check_app(app, to, said_by)

    def send() -> int:
        identity = (key, attempt.seen[attempt.namespace, key])
        id = idempotency_key(attempt.namespace, identity, attempt.journal.epoch)
        return attempt.emit(Emission(event, data, id, to, app))

    asked = {"event": event, "data": data, "to": to, "app": app}
    return int(run_step(attempt, key, asked, lambda asked: send(), {}, verb="emit"))


# -- what events are made of ---------------------------------------------------------------------------------------------


def check_event(event: object, said_by: str) -> str:
    """Return the event's name, or raise StepsError that names who said it."""
    if not isinstance(event, str) or not event.strip():
        raise StepsError(f"{said_by}: an event's name must be text that is not blank, not {event!r:.80}.")
    return event


def check_data(data: Any, said_by: str) -> Any:
    if data is None:
        raise StepsError(f"{said_by}: an event's data cannot be None, as that is what a wait returns at its deadline. Send {{}}.")
    return data


def check_app(app: object, to: str | None, said_by: str) -> None:
    if app is not None and (to is not None or not isinstance(app, str)):
        raise StepsError(
            f"{said_by}: app names the one Celery app whose tasks the event starts, so it is text and goes without to; "
            f"given are app={app!r:.80} and to={to!r:.80}."
        )


def matches(match: Mapping[str, Any] | None, data: Any) -> bool:
    """Whether every entry of `match` is equal in the event's data."""
    if not match:
        return True
    return isinstance(data, Mapping) and all(name in data and data[name] == value for name, value in match.items())


def encode_data(codec: Codec, event: str, data: Any, where: str) -> bytes:
    """Event data, or a match, as it is kept. ResultError names what cannot be encoded."""
    return codec.encode(data, where=where, hint=PLAIN, key=event)


def event_data(codec: Codec, event: str, data: bytes) -> Any:
    return codec.decode(data, hint=PLAIN, key=event)
