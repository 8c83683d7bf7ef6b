"""What entries of a journal hold: packed lists, a format number first."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from celery_steps.codec import HASH_VERSION, NO_INPUT_HASH, pack, unpack, unpack_flat
from celery_steps.errors import ResultError
from celery_steps.store.replies import Entry

FORMAT = 1

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

    @property
    def occurred_at_ms(self) -> int:
        """When the outcome was there, by the store's clock."""
        return int(self.id.split("-")[0]) + self.began + self.took


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
    identity: Identity, digest: bytes | None, ok: bool, value: bytes, input: bytes | None, began: int, took: int
) -> bytes:
    return pack([FORMAT, identity[0], identity[1], digest, ok, value, input, began, took])


def pack_call(token: str, run: str, task: str, digest: bytes | None, retries: int) -> bytes:
    return pack([FORMAT, token, run, task, digest, retries])


def pack_start(identity: Identity) -> bytes:
    return pack([FORMAT, *identity])


def pack_retry(run: str, retries: int, reopened: list[Identity], failed: list[Identity]) -> bytes:
    return pack([FORMAT, run, retries, [list(i) for i in reopened], [list(i) for i in failed]])


def pack_suspend(run: str, what: str, about: str) -> bytes:
    return pack([FORMAT, run, what, about])


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
            return Step._make(fields)
    except (ValueError, TypeError):
        pass
    return Step(entry.id, *read(entry))


def read_call(entry: Entry) -> Call:
    return Call(entry.id, *read(entry))


def read_finish(entry: Entry) -> Finish:
    return Finish(entry.id, *read(entry))
