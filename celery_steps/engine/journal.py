"""A namespace's journal as one attempt owns it, and the one way to append to it.

Every append names the entry that it follows. So an owner that was replaced writes nothing, a write sent twice is recognised,
and a journal that was lost or rolled back is noticed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import uuid4

from celery_steps.engine import entries as fmt
from celery_steps.engine.standing import Standing
from celery_steps.errors import AttemptEnded, JournalLost, LeaseLost, StepsError, StoreLost, StoreUnavailable
from celery_steps.store.replies import Append, Await, Claim, Entry, Event

logger = logging.getLogger("celery_steps")

#: A run with more entries is warned of: it should be split, or restarted with `replace`.
MANY_ENTRIES = 10_000


class JournalStore(Protocol):
    """Who keeps journals: a Redis namespace bound to one owner, or memory."""

    @property
    def namespace(self) -> str: ...
    @property
    def skipped_ms(self) -> int | None: ...  # time that rests skipped: in memory nobody leaves. None: they are taken

    def claim(
        self,
        nonce: str,
        entry: bytes,
        *,
        retries: int,
        message: bytes,
        expect: int = 0,
        known_only: bool = False,
        after: str = "",
    ) -> tuple[Claim, list[Entry]]: ...
    def read(self, first: str) -> list[Entry]: ...
    def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append: ...
    def suspend(
        self,
        before: str,
        after: str,
        entries: Sequence[tuple[str, str, bytes]],
        *,
        delay: int,
        awaits: Sequence[Await] = (),
        seen: str = "",
        status: str = "suspended",
    ) -> Append: ...
    def inbox(self, after: str) -> list[Event]: ...
    def receive(
        self,
        before: str,
        after: str,
        entries: Sequence[tuple[str, str, bytes]],
        *,
        ended: Sequence[Await],
        taken: Sequence[str],
    ) -> Append: ...
    def retry(self, before: str, after: str, id: str, entry: bytes, delay: int, retries: int, message: bytes) -> Append: ...
    def finish(self, before: str, after: str, id: str, entry: bytes) -> Append: ...
    def finish_and_settle(self, before: str, after: str, id: str, entry: bytes, state: str) -> Append: ...
    def settle(self, state: str) -> bool: ...
    def release(self, delay: int) -> bool: ...
    def renew(self) -> int: ...
    def begin_rollback(self, nonce: str, entry: bytes) -> None: ...
    def tell(self, id: str, place: str, line: bytes, progress: bytes) -> bool: ...
    def abandon(self) -> bool: ...
    def elsewhere(self, namespace: str) -> JournalStore: ...
    def borrow(self, nonce: str, entry: bytes) -> tuple[Claim, list[Entry]]: ...
    def giveback(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]]) -> Append: ...


class _Waiting:
    """Entries that wait for the append in flight."""

    __slots__ = ("entries", "error", "over", "record")

    def __init__(self, entries: Sequence[tuple[str, bytes]], record: bool) -> None:
        self.entries = entries
        self.record = record
        self.over = False
        self.error: BaseException | None = None


class Journal(Standing):
    """The journal of a namespace, owned by an attempt of the run `run`.

    The threads of an attempt share it: one append is in flight at a time, and what waits meanwhile goes together in the next.
    """

    def __init__(self, store: JournalStore, run: str) -> None:
        super().__init__(run)
        self.store = store
        self.fence = 0
        self.uid = ""
        self._n = 0
        self._retries = 0
        self._borrowed = b""  # the entry with which the namespace was borrowed
        self.short = False  # Redis is out of memory
        self._left = False  # the run has ended or suspended: a branch that still runs must not append
        self._turn = threading.Lock()  # of the append in flight
        self._waiting: deque[_Waiting] = deque()

    @property
    def tip(self) -> str:
        return f"{self.last} {self.uid}"

    # -- owning -----------------------------------------------------------------------------------------------------

    def claim(self, entry: bytes, *, retries: int, message: bytes, known_only: bool = False) -> Claim:
        """Claim the namespace and read its journal. A verdict other than OK changes nothing here."""
        nonce, interrupt = uuid4().hex, None
        self._retries = retries
        while True:
            try:
                claim, entries = self.store.claim(nonce, entry, retries=retries, message=message, known_only=known_only)
                break
            except (AttemptEnded, StepsError):
                raise
            except BaseException as error:  # a signal: nobody knows whether it was granted. To its end first, as in `write`
                if interrupt is not None:
                    raise
                interrupt = error
        if claim.verdict == "OK":
            self._own(claim, entries)
        else:
            self.absorb(entries)
        if interrupt is not None:
            raise interrupt
        return claim

    def borrow(self, entry: bytes) -> Claim:
        """Claim the namespace for one step."""
        self._borrowed = entry
        claim, entries = self.store.borrow(uuid4().hex, entry)
        if claim.verdict == "OK":
            self._own(claim, entries)
        return claim

    def _own(self, claim: Claim, entries: list[Entry]) -> None:
        mine = next((i for i, entry in enumerate(entries) if entry.id == f"{claim.fence}-0"), None)
        if mine is None:
            raise JournalLost(f"The journal of {self.store.namespace!r} was lost while it was claimed: the claim is not in it.")
        _refuse_others(entries[mine + 1 :])
        self.fence, self.uid, self._n, self.last = claim.fence, claim.uid, 0, entries[-1].id
        self.absorb(entries)
        if self.length > MANY_ENTRIES:
            logger.warning(
                "The journal of namespace %r has %d entries: replay gets slow beyond %d. "
                "Split the run, or begin anew with replace.",
                self.store.namespace, self.length, MANY_ENTRIES,
            )  # fmt: skip

    def _reclaim(self) -> None:
        """Control entries moved the fence on: own the namespace under a new one."""
        if self._borrowed:  # once more as it was: every reader of the namespace reads this kind of entry as a call
            claim, entries = self.store.borrow(uuid4().hex, self._borrowed)
            if claim.verdict == "OK":
                known = [entry.id for entry in entries]
                if self.last not in known:
                    raise self.lost()
                entries = entries[known.index(self.last) + 1 :]
                # BORROW knows no `expect`: whoever owned the namespace meanwhile may have recorded this step.
                _refuse_others([entry for entry in entries if entry.id != f"{claim.fence}-0"])
        else:
            entry = fmt.pack_control(self.run, "reclaim")
            claim, entries = self.store.claim(
                uuid4().hex, entry, retries=self._retries, message=b"", expect=self.fence, after=self.last
            )
        if claim.verdict == "LOST":
            raise self.lost()
        if claim.verdict != "OK":
            raise LeaseLost
        self._own(claim, entries)

    def lost(self) -> JournalLost:
        return JournalLost(
            f"The journal of namespace {self.store.namespace!r} is gone or was rolled back in Redis: its recorded steps are "
            "lost. It is not run again in silence. Look at what was done, then purge the namespace and send the task again."
        )

    # -- appending --------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[tuple[str, bytes]], *, record: bool = True) -> None:
        """Append (kind, packed) entries after the last one known. LeaseLost or JournalLost: nothing was written."""
        mine, interrupt = _Waiting(entries, record), None
        self._waiting.append(mine)
        while not mine.over:
            try:
                with self._turn:
                    if not mine.over:  # not gone together with those of another thread
                        interrupt = self._append_waiting() or interrupt
            except BaseException as error:  # a signal, while another thread had its turn
                if interrupt is not None:
                    raise
                interrupt = error
        if mine.error is not None:
            raise mine.error
        if interrupt is not None:
            raise interrupt

    def _append_waiting(self) -> BaseException | None:
        """One commit of all that waits. Returns what interrupted it."""
        batch = list(self._waiting)
        entries = [entry for one in batch for entry in one.entries]
        record = any(one.record for one in batch)

        def send(before: str, after: str, ids: list[str]) -> Append:
            numbered = [(id, kind, data) for id, (kind, data) in zip(ids, entries, strict=True)]
            return self.store.commit(before, after, numbered, record=record)

        error: BaseException | None = None
        interrupt: BaseException | None = None
        try:
            if self._left:
                raise LeaseLost
            _, interrupt = self._send(send, entries)
        except BaseException as raised:
            error = raised
        for one in batch:
            self._waiting.popleft()
            one.error, one.over = error, True
        return interrupt

    def write(
        self, send: Callable[[str, str, list[str]], Append], entries: Sequence[tuple[str, bytes]], *, leaves: bool = False
    ) -> Append:
        """Send an append until it is known to be written or refused.

        `send` gets the tips before and after, and the entries' ids. `leaves`: once written, this attempt appends nothing more.
        """
        with self._turn:
            reply, interrupt = self._send(send, entries)
            self._left = self._left or (leaves and reply is not Append.NEWS)
        if interrupt is not None:
            raise interrupt
        return reply

    def _send(
        self, send: Callable[[str, str, list[str]], Append], entries: Sequence[tuple[str, bytes]]
    ) -> tuple[Append, BaseException | None]:
        """As `write`, in turn. Returns what interrupted it as well."""
        interrupt: BaseException | None = None
        while True:
            try:
                reply = self._write(send, entries)
            except StoreUnavailable as error:
                raise StoreLost(str(error)) from error
            except (AttemptEnded, StepsError):
                raise
            except BaseException as error:
                # A signal (soft time limit) in the middle: nobody knows whether it was written. To its end first.
                if interrupt is not None:
                    raise
                interrupt = error
                continue
            if reply is not Append.STALE:
                return reply, interrupt

    def _write(self, send: Callable[[str, str, list[str]], Append], entries: Sequence[tuple[str, bytes]]) -> Append:
        ids = [f"{self.fence}-{self._n + i}" for i in range(1, len(entries) + 1)]
        reply = send(self.tip, f"{ids[-1]} {self.uid}", ids)
        if reply is Append.LOST:
            raise self.lost()
        if reply is Append.STALE:
            return Append.OK if self._is_written(ids) else Append.STALE
        self.short = self.short or reply is Append.SHORT
        if reply in (Append.OK, Append.SHORT):
            self.absorb([Entry(id, kind, data) for id, (kind, data) in zip(ids, entries, strict=True)])
            self._n += len(ids)
        return reply

    def _is_written(self, ids: list[str]) -> bool:
        """The tip moved: find out why. True: these entries are in the journal. False: send them again under the new fence."""
        return any(entry.id == ids[0] for entry in self._catch_up())

    def catch_up(self) -> None:
        """Read what came after my last entry. Control entries are taken into account under a new fence; an attempt ends mine."""
        with self._turn:
            self._catch_up()

    def _catch_up(self) -> list[Entry]:
        last, *beyond = self.store.read(self.last) or [Entry("", "", b"")]
        if last.id != self.last:
            raise self.lost()
        _refuse_others(beyond)
        self.absorb(beyond)
        self._reclaim()
        return beyond


def _refuse_others(entries: Sequence[Entry]) -> None:
    if any(entry.kind in ("attempt", "borrow") for entry in entries):
        raise LeaseLost
