"""What `Runs` hands out: runs, their attempts and records, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_steps.codec import Codec
from celery_steps.engine.history import PastAttempt, PastStep
from celery_steps.engine.inspection import records
from celery_steps.store.keys import RunId

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Worker:
    """A process that executes: Celery's name of its worker, and its process id there."""

    hostname: str
    pid: int | None


@dataclass(frozen=True)
class RunAttempt:
    """One delivery that executed the body."""

    number: int
    began_at: datetime
    worker: Worker
    retries: int  # Celery's count
    recorded: int  # steps
    ended: str  # running, suspended, retrying, interrupted (nothing is written of its end), or the run's outcome
    waiting: str  # suspended: for what


@dataclass(frozen=True)
class Run:
    """One run. The last three are known to `Runs.get` only: a list does not read journals."""

    namespace: str
    id: str  # Celery's task id
    task: str
    status: str
    attempts: int
    crashes: int  # in a row without a new record
    retries: int  # Celery's count
    created_at: datetime  # UTC, as all times
    changed_at: datetime  # of its status
    owner: Worker | None  # who executes it
    lease_until: datetime | None
    wake_at: datetime | None  # of a suspended or retrying one
    error: Exception | None  # of a failed one
    history: tuple[RunAttempt, ...] = ()
    in_flight: tuple[str, int] | None = None  # the step that was begun last, where that is recorded: after a crash
    waiting: str = ""  # suspended: for what
    to_undo: tuple[tuple[str, int], ...] = ()  # (key, occurrence) of a run that is, or was, rolled back; newest first


@dataclass(frozen=True)
class Record:
    """What a journal says about a step."""

    event_id: str
    namespace: str
    key: str
    sequence: int
    deterministic_inputs_hash: str
    input: Any  # None also where it is not recorded
    result: Any
    error: Exception | None
    occurred_at_ms: int  # by the store's clock
    took_ms: int
    status: str  # done, failed; for what does not stand: reopened, replaced, raised, begun
    run_id: str  # the task id of the run that recorded it
    attempt: int  # of that run; 0: it borrowed the namespace for this step
    reference: Any = None  # what the task's before_commit returned
    corrupt: str = ""  # why it cannot be read

    @property
    def occurred_at(self) -> datetime:
        return at(self.occurred_at_ms)


def at(ms: int) -> datetime:
    """A time in ms since 1970, in UTC; what a damaged entry says may be out of a datetime's range."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return datetime.max.replace(tzinfo=timezone.utc)


def worker_of(token: str) -> Worker:
    """A token begins with hostname/pid/."""
    hostname, pid, *_ = (*token.rsplit("/", 3), "")
    return Worker(hostname, int(pid) if pid.isdecimal() else None)


def attempt_of(past: PastAttempt, running: bool) -> RunAttempt:
    return RunAttempt(
        number=past.number,
        began_at=at(_ms(past.id)),
        worker=worker_of(past.token),
        retries=past.retries,
        recorded=past.recorded,
        ended=past.ended or ("running" if running else "interrupted"),
        waiting=past.about,
    )


def record_of(namespace: str, past: PastStep, codec: Codec) -> Record:
    """A step with its values decoded, if they can be."""
    key, sequence = past.identity
    known: dict[str, Any] = {
        "event_id": past.id,
        "namespace": namespace,
        "key": key,
        "sequence": sequence,
        "deterministic_inputs_hash": "",
        "input": None,
        "result": None,
        "error": None,
        "occurred_at_ms": _ms(past.id),
        "took_ms": 0,
        "reference": None,
    }
    corrupt = past.trouble
    if past.step is not None:
        try:
            (known,) = records(namespace, [past.step], codec)
        except Exception as error:  # also whatever steps_codec raises: the other records are listed all the same
            corrupt = str(error) or type(error).__name__
    attempt = past.attempt
    return Record(
        **known,
        status=past.status,
        run_id="" if attempt is None else RunId.parse(attempt.run).id,
        attempt=0 if attempt is None else attempt.number,
        corrupt=corrupt,
    )


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
