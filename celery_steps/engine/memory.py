"""A journal that writes nowhere: direct calls, `apply()` and eager mode use the same engine over it."""

from __future__ import annotations

from collections.abc import Sequence

from celery_steps.store.replies import Append, Claim, Entry


class MemoryStore:
    """Keeps one namespace's entries for as long as it is referenced. There is one owner, so nothing is ever refused."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.entries: list[Entry] = []
        self._others: dict[str, MemoryStore] = {}
        self._fence = 0

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
        return self._grant("attempt", entry)

    def borrow(self, nonce: str, entry: bytes) -> tuple[Claim, list[Entry]]:
        return self._grant("borrow", entry)

    def _grant(self, kind: str, entry: bytes) -> tuple[Claim, list[Entry]]:
        self._fence += 1
        self.entries.append(Entry(f"{self._fence}-0", kind, entry))
        return Claim("OK", self._fence, "memory", self._fence, attempts=self._fence), list(self.entries)

    def read(self, first: str) -> list[Entry]:
        return list(self.entries)

    def elsewhere(self, namespace: str) -> MemoryStore:
        return self._others.setdefault(namespace, MemoryStore(namespace))

    def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append:
        self.entries += (Entry(*entry) for entry in entries)
        return Append.OK

    def giveback(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]]) -> Append:
        return self.commit(before, after, entries, record=True)

    def suspend(self, before: str, after: str, id: str, entry: bytes, delay: int) -> Append:
        return self.commit(before, after, [(id, "suspend", entry)], record=False)

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

    def abandon(self) -> bool:
        return False
