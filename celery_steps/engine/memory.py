"""A journal that writes nowhere: direct calls, `apply()` and eager mode use the same engine over it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

from celery_steps.codec import Codec
from celery_steps.engine.entries import NEVER
from celery_steps.engine.event import Emission, encode_data
from celery_steps.errors import InDoubt, StepsError
from celery_steps.store.replies import Append, Await, Claim, Entry, Event

_serial = count(1)
#: Events sent in this process, by namespace, until they are taken.
inboxes: defaultdict[str, list[Event]] = defaultdict(list)


def deliver(codec: Codec, emission: Emission) -> int:
    """An event to a namespace of this process, which keeps it. Nobody waits outside a worker, so it reaches no one now."""
    if emission.to is not None:
        inbox = inboxes[emission.to]
        if all(event.event_id != emission.id for event in inbox):
            id = f"{time.time_ns() // 1_000_000}-{next(_serial)}"
            inbox.append(Event(id, emission.event, encode_data(codec, emission.event, emission.data, "data"), "", emission.id))
    return 0


class MemoryStore:
    """Keeps one namespace's entries for as long as it is referenced. There is one owner, so nothing is ever refused."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.entries: list[Entry] = []
        self._others: dict[str, MemoryStore] = {}
        self._fence = 0
        self.skipped_ms = 0
        self.lines: list[bytes] = []
        self.progress = b""
        self._told = ""

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
    ) -> tuple[Claim, list[Entry]]:
        claim, entries = self._grant("reclaim" if expect else "attempt", entry)
        known = [entry.id for entry in entries]
        return claim, entries[known.index(after) + 1 :] if after else entries

    def borrow(self, nonce: str, entry: bytes) -> tuple[Claim, list[Entry]]:
        return self._grant("borrow", entry)

    def _grant(self, kind: str, entry: bytes) -> tuple[Claim, list[Entry]]:
        self._fence += 1
        self.entries.append(Entry(f"{self._fence}-0", kind, entry))
        now = time.time_ns() // 1_000_000
        return Claim("OK", self._fence, "memory", now, attempts=self._fence, told=self._told), list(self.entries)

    def read(self, first: str) -> list[Entry]:
        known = [entry.id for entry in self.entries]
        return self.entries[known.index(first) :] if first in known else list(self.entries)

    def elsewhere(self, namespace: str) -> MemoryStore:
        return self._others.setdefault(namespace, MemoryStore(namespace))

    def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append:
        self.entries += (Entry(*entry) for entry in entries)
        return Append.OK

    def giveback(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]]) -> Append:
        return self.commit(before, after, entries, record=True)

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
    ) -> Append:
        """Nobody leaves: the time until then is skipped."""
        if delay >= NEVER // 2:
            if status == "in_doubt":
                raise InDoubt(
                    "Nobody knows what became of this step, and outside a worker nobody can say so: run it in a worker."
                )
            waits = ", ".join(repr(await_.event) for await_ in awaits)
            raise StepsError(
                f"Outside a worker nobody can send the event {waits} while this runs: send it before, or give a timeout."
            )
        self.skipped_ms += delay
        return Append.NEWS

    def inbox(self, after: str) -> list[Event]:
        known = [int(part) for part in (after or "0").split("-")]
        return [event for event in inboxes[self.namespace] if [int(part) for part in event.id.split("-")] > known]

    def receive(
        self,
        before: str,
        after: str,
        entries: Sequence[tuple[str, str, bytes]],
        *,
        ended: Sequence[Await],
        taken: Sequence[str],
    ) -> Append:
        inboxes[self.namespace] = [event for event in inboxes[self.namespace] if event.id not in taken]
        return self.commit(before, after, entries, record=True)

    def retry(self, before: str, after: str, id: str, entry: bytes, delay: int, retries: int, message: bytes) -> Append:
        return self.commit(before, after, [(id, "retry", entry)], record=False)

    def finish(self, before: str, after: str, id: str, entry: bytes) -> Append:
        return self.commit(before, after, [(id, "finish", entry)], record=False)

    def finish_and_settle(self, before: str, after: str, id: str, entry: bytes, state: str) -> Append:
        return self.finish(before, after, id, entry)

    def settle(self, state: str) -> bool:
        return True

    def release(self, delay: int) -> bool:
        return True

    def renew(self) -> int:
        return self._fence

    def begin_rollback(self, nonce: str, entry: bytes) -> None:
        self._fence += 1
        self.entries.append(Entry(f"{self._fence}-0", "rollback", entry))

    def tell(self, id: str, place: str, line: bytes, progress: bytes) -> bool:
        self._told = place
        self.lines += [line] if line else []
        self.progress = progress or self.progress
        return True

    def abandon(self) -> bool:
        return False
