"""What entries of a journal hold: packed lists, a format number first."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from celery_steps.codec import HASH_VERSION, NO_INPUT_HASH, pack, unpack, unpack_flat
from celery_steps.errors import ResultError
from celery_steps.store.replies import Entry

FORMAT = 1

#: A time that does not come, in ms since 1970: somebody must wake the run.
NEVER = 9_000_000_000_000_000

#: (key, sequence) within a namespace
Identity = tuple[str, int]


class Step(NamedTuple):
    """A step's recorded outcome."""

    id: str
    key: str
    sequence: int
    digest: bytes | None  # of the input, None: there was none
    ok: bool
    value: bytes  # encoded result or failure
    input: bytes | None  # encoded, if recorded
    began: int  # ms after the attempt's fence
    took: int  # ms
    verb: str = "run"  # which verb recorded it
    undo: bool = False  # it has a rollback
    reference: bytes | None = None  # what the task's before_commit returned, encoded
    said: bool = False  # by an operator, as plain data: the attempt that comes by makes it what the code works with

    @property
    def occurred_at_ms(self) -> int:
        """When the outcome was there, by the store's clock."""
        return int(self.id.split("-")[0]) + self.began + self.took


class Wait(NamedTuple):
    """What a run began to wait for: fixed at the first call."""

    id: str
    key: str
    sequence: int
    verb: str
    about: str  # the event's name, the child's task
    deadline: int  # ms since 1970 by the store's clock, 0: none
    detail: bytes  # of a child: what is needed to send it again
    began: int | None = None  # ms after the attempt's fence


class Call(NamedTuple):
    """An attempt's first entry: who calls what."""

    id: str
    token: str
    run: str
    task: str
    digest: bytes | None  # of the call's arguments
    retries: int


class Finish(NamedTuple):
    id: str
    run: str
    outcome: str  # succeeded, failed, cancelled, ignored, rejected, replaced
    value: bytes


def hash_text(digest: bytes | None) -> str:
    """An input's digest as people see it."""
    return NO_INPUT_HASH if digest is None else HASH_VERSION + digest.hex()


def pack_step(
    identity: Identity,
    digest: bytes | None,
    ok: bool,
    value: bytes,
    input: bytes | None,
    began: int,
    took: int,
    verb: str = "run",
    undo: bool = False,
    reference: bytes | None = None,
) -> bytes:
    fields = [FORMAT, identity[0], identity[1], digest, ok, value, input, began, took]
    if reference is not None:
        return pack([*fields, verb, undo, reference])
    return pack([*fields, verb, undo] if undo else fields if verb == "run" else [*fields, verb])


def pack_wait(identity: Identity, verb: str, about: str, deadline: int, detail: bytes, began: int) -> bytes:
    return pack([FORMAT, *identity, verb, about, deadline, detail, began])


def pack_call(token: str, run: str, task: str, digest: bytes | None, retries: int) -> bytes:
    return pack([FORMAT, token, run, task, digest, retries])


def pack_start(identity: Identity) -> bytes:
    return pack([FORMAT, *identity])


def pack_intent(identity: Identity, digest: bytes | None, undo: bool) -> bytes:
    return pack([FORMAT, *identity, digest, undo])


def pack_rollback(run: str, outcome: str, value: bytes) -> bytes:
    """The run ends with that outcome, which Celery has stored, once what it executed is undone."""
    return pack([FORMAT, run, outcome, value])


def pack_reopen(run: str, anew: list[Identity], undoing: bool) -> bytes:
    """`anew` are the steps that lose their outcome; `undoing`: the run goes on with its rollback."""
    return pack([FORMAT, run, [list(identity) for identity in anew], undoing])


def pack_undo(identity: Identity, ok: bool, failure: bytes, began: int, took: int) -> bytes:
    return pack([FORMAT, *identity, ok, failure, began, took])


def pack_tried(identity: Identity, due: int, failure: bytes, began: int, took: int) -> bytes:
    """A failed try that is not the last; `due` is when the next one begins, in ms since 1970."""
    return pack([FORMAT, *identity, due, failure, began, took])


def pack_resolve(run: str, identity: Identity, how: str, value: bytes) -> bytes:
    """`how` is done or failed, with the encoded result or failure, or rerun."""
    return pack([FORMAT, run, *identity, how, value])


def pack_retry(run: str, retries: int, reopened: list[Identity], failed: list[Identity]) -> bytes:
    return pack([FORMAT, run, retries, [list(i) for i in reopened], [list(i) for i in failed]])


def pack_suspend(run: str, about: str, wake: int) -> bytes:
    """`about` says in words what is waited for, `wake` until when: ms since 1970, or NEVER."""
    return pack([FORMAT, run, about, wake])


def pack_control(run: str, reason: str = "") -> bytes:
    """A cancel, or the main process's verdict; `reason` says why in words."""
    return pack([FORMAT, run, reason])


def pack_finish(run: str, outcome: str, value: bytes) -> bytes:
    return pack([FORMAT, run, outcome, value])


def read(entry: Entry) -> list[Any]:
    """The fields of an entry, without its format number. ResultError for a newer format or a corrupt entry."""
    try:
        format, *fields = cast(list[Any], unpack(entry.data))
    except (ResultError, ValueError, TypeError) as error:
        raise ResultError(
            f"Journal entry {entry.id} ({entry.kind}) is corrupt: {error}. Look at it with XRANGE; other entries are intact."
        ) from error
    if format != FORMAT:
        raise ResultError(
            f"Journal entry {entry.id} ({entry.kind}) was written by a newer celery-steps (format {format}, this one reads "
            f"{FORMAT}): upgrade this worker. Nothing was changed."
        )
    return fields


def read_step(entry: Entry) -> Step:
    try:
        fields = unpack_flat(entry.data)  # this one is read thousands of times
        if fields[0] == FORMAT:
            fields[0] = entry.id
            return Step(*fields)
    except (ValueError, TypeError):
        pass
    return Step(entry.id, *read(entry))


def read_wait(entry: Entry) -> Wait:
    return Wait(entry.id, *read(entry))


def read_call(entry: Entry) -> Call:
    return Call(entry.id, *read(entry))


def read_finish(entry: Entry) -> Finish:
    return Finish(entry.id, *read(entry))
