"""What `Runs` hands out: runs, their attempts, records and log lines, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_steps.codec import Codec
from celery_steps.engine.entries import NEVER
from celery_steps.engine.history import WAITING, PastAttempt, PastStep, ms_of
from celery_steps.engine.inspection import records
from celery_steps.engine.log import read_line, words_of
from celery_steps.engine.progress import progress_of
from celery_steps.errors import ResultError
from celery_steps.store.keys import RunId, decode

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
    ended_at: datetime | None = (
        None  # the last moment that is known of it; None: it is not over, or nothing is written of its end
    )


@dataclass(frozen=True)
class Waiting:
    """Something that a run waits for."""

    key: str
    sequence: int
    verb: str  # sleep, sleep_until, wait_for_event, run_task
    about: str  # the event's name, the child's task
    began_at: datetime
    until: datetime | None  # None: for ever


@dataclass(frozen=True)
class Progress:
    """How far a run is, as it said itself."""

    current: float
    total: float | None
    message: str | None
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class Run:
    """One run. The last four are known to `Runs.get` only: a list does not read journals."""

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
    wake_at: datetime | None  # of a suspended or retrying one; None also where it waits for ever
    error: Exception | None  # of a failed one
    events: tuple[str, ...] = ()  # that a suspended one waits for
    progress: Progress | None = None  # the last it told
    history: tuple[RunAttempt, ...] = ()
    in_flight: tuple[str, int] | None = None  # the step that was begun last, where that is recorded: after a crash
    waiting: str = ""  # suspended: for what, in words
    waits: tuple[Waiting, ...] = ()  # of an unfinished one
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
    status: str  # done, failed, waiting, undone; for what does not stand: reopened, replaced, raised, begun
    run_id: str  # the task id of the run that recorded it
    attempt: int  # of that run; 0: it borrowed the namespace for this step
    verb: str = "run"  # which verb recorded it; undo: its rollback
    waits_for: Waiting | None = None  # of a wait that is not over
    reference: Any = None  # what the task's before_commit returned
    corrupt: str = ""  # why it cannot be read

    @property
    def occurred_at(self) -> datetime:
        return at(self.occurred_at_ms)


@dataclass(frozen=True)
class Line:
    """A line that a run said with `step.log`."""

    id: str  # rises within a namespace
    at: datetime  # by the store's clock
    level: str  # debug, info, warning, error
    namespace: str
    run_id: str
    task: str
    attempt: int  # of that run, from 1
    key: str  # of the step whose handler said it, "": the body
    sequence: int
    message: str
    data: dict[str, Any]
    corrupt: str = ""  # why it cannot be read


@dataclass(frozen=True)
class Page:
    """Some runs, newest first; `cursor` leads to the next page, None: there is none."""

    runs: tuple[Run, ...]
    cursor: str | None


@dataclass(frozen=True)
class Stats:
    """Figures of one store and one app."""

    runs: dict[str, int]  # by status
    unfinished: int
    tickets: int  # of this app
    due: int  # of them, due now
    late_seconds: float  # how long the first of these has been due; 0: none is
    memory_bytes: int | None  # what the Redis server uses in all; None: it does not say
    server: str  # its version, "" where it does not say


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


def attempt_of(past: PastAttempt, running: bool, changed: datetime | None) -> RunAttempt:
    """`changed`: when the status changed with which this attempt ended, if that is known."""
    ended_at = None if not past.ended else changed or at(past.ended_ms)
    return RunAttempt(
        number=past.number,
        began_at=at(ms_of(past.id)),
        worker=worker_of(past.token),
        retries=past.retries,
        recorded=past.recorded,
        ended=past.ended or ("running" if running else "interrupted"),
        waiting=past.about,
        ended_at=ended_at,
    )


def run_of(namespace: str, run: RunId, head: dict[str, str], error: Exception | None, codec: Codec) -> Run:
    """A run from its fields in the run hash."""
    wake = int(head.get("wake", 0)) if head["status"] in ("suspended", "retrying") else 0
    owns = bool(head.get("owner")) and head.get("owner_run") == str(run)
    awaited = head.get("await", "").split() if head["status"] == "suspended" else []
    return Run(
        namespace=namespace,
        id=run.id,
        task=run.task,
        status=head["status"],
        attempts=int(head.get("attempts", 0)),
        crashes=int(head.get("crashes", 0)),
        retries=int(head.get("retries", 0)),
        created_at=at(int(head.get("created", 0))),
        changed_at=at(int(head.get("changed", 0))),
        owner=worker_of(head["owner"]) if owns else None,
        lease_until=at(int(head.get("lease", 0))) if owns else None,
        wake_at=at(wake) if 0 < wake < NEVER // 2 else None,
        error=error,
        events=tuple(dict.fromkeys(decode(name.partition("|")[0]) for name in awaited)),
        progress=_progress(namespace, head, codec),
    )


def _progress(namespace: str, head: dict[str, str], codec: Codec) -> Progress | None:
    if "progress" not in head:
        return None
    try:
        data = progress_of(head["progress"].encode(errors="surrogateescape"), namespace, codec)
        current, total, message = (data.pop(name) for name in ("current", "total", "message"))
        return Progress(current, total, message, data, at(int(head.get("progressed", 0))))
    except Exception:  # damaged, or of another steps_codec: the run is shown all the same
        return None


def waiting_of(past: PastStep) -> Waiting:
    """What a wait that is not over waits for."""
    wait = past.wait
    assert wait is not None
    until = at(wait.deadline) if wait.deadline else None
    return Waiting(wait.key, wait.sequence, wait.verb, wait.about, at(past.began_ms), until)


def line_of(namespace: str, id: str, said_at: bytes, data: bytes, codec: Codec) -> Line:
    """A line of the log with its words decoded, if they can be."""
    moment = at(int(said_at) if said_at.isdigit() else ms_of(id))
    try:
        line = read_line(data)
        run = RunId.parse(line.run)
        known = (id, moment, line.level, namespace, run.id, run.task, line.attempt, line.key, line.sequence)
        try:
            return Line(*known, *words_of(line, namespace, codec))
        except Exception as error:  # also whatever steps_codec raises
            return Line(*known, "", {}, corrupt=str(error) or type(error).__name__)
    except (ResultError, ValueError) as error:
        return Line(id, moment, "error", namespace, "", "", 0, "", 0, "", {}, corrupt=str(error))


def record_of(namespace: str, past: PastStep, codec: Codec) -> Record:
    """A step with its values decoded, if they can be."""
    key, sequence = past.identity
    known: dict[str, Any] = {
        "event_id": past.id,
        "namespace": namespace,
        "key": key,
        "sequence": sequence,
        "verb": past.verb,
        "deterministic_inputs_hash": "",
        "input": None,
        "result": None,
        "error": None,
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
    known["occurred_at_ms"] = past.began_ms if past.ended_ms is None else past.ended_ms
    return Record(
        **known,
        status=past.status,
        run_id="" if attempt is None else RunId.parse(attempt.run).id,
        attempt=0 if attempt is None else attempt.number,
        waits_for=waiting_of(past) if past.status == WAITING else None,
        corrupt=corrupt,
    )
