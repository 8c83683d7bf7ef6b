"""Runs seen from outside: listed, counted, looked up, purged. Nothing here loads more than pages."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from celery_steps.errors import StepsError
from celery_steps.store.keys import FINAL, OPEN, NamespaceKeys, RunId, decode, encode, split_member
from celery_steps.store.replies import Entry
from celery_steps.store.store import Store, entries_of

_PAGE = 100
#: Rows that are read of each index at first: the newest few runs are spread over all of them. Then ever more.
_FIRST, _MOST = 10, 640
_OF_RUN = (
    "status", "app", "created", "changed", "attempts", "crashes", "retries", "wake", "outcome", "await", "progress", "progressed",
)  # fmt: skip
_OF_NAMESPACE = ("owner", "owner_run", "lease")


class Row(NamedTuple):
    """A run in the index: when its status changed last, in ms, and its namespace and id as they are stored."""

    changed: int
    member: bytes

    @classmethod
    def at(cls, cursor: str) -> Row:
        """The row at which a page ended. StepsError for text that is no cursor."""
        try:
            changed, _, member = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).partition(b" ")
            return cls(int(changed), member)
        except ValueError:
            raise StepsError(f"{cursor!r:.80} is no cursor: take that of the page before, as it is.") from None

    @property
    def cursor(self) -> str:
        return base64.urlsafe_b64encode(b"%d %b" % self).decode().rstrip("=")

    def split(self) -> tuple[str, RunId]:
        return split_member(self.member.decode())

    def is_of(self, task: str) -> bool:
        return self.member.partition(b" ")[2].startswith(_start_of(task))

    def contains(self, text: str) -> bool:
        """Whether its namespace, its task or its task id does; upper and lower case are the same."""
        wanted = text.casefold()
        if wanted not in decode(self.member.decode()).casefold():  # of a million rows, nearly all
            return False
        namespace, run = self.split()
        return any(wanted in part.casefold() for part in (namespace, run.task, run.id))


@lru_cache(maxsize=16)
def _start_of(task: str) -> bytes:
    """How a run of that task begins in a row, behind its namespace."""
    return encode(task).encode() + b"/"


class Tickets(NamedTuple):
    """The tickets of one app."""

    total: int
    due: int
    late_ms: int  # how long the one that is due longest has been so; 0: none is


class Index:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = store.client
        self._keys = store.keys

    def _all(self, statuses: Iterable[str]) -> list[str]:
        return [self._keys.status(p, status) for status in statuses for p in range(self._keys.partitions)]

    def _ask(self, commands: Sequence[Sequence[str | bytes]]) -> list[Any]:
        replies = self._client.exchange(*commands) if commands else []
        for reply in replies:
            if isinstance(reply, Exception):
                raise StepsError(f"Redis at {self._client.address} refused: {reply}") from reply
        return replies

    def now(self) -> int:
        """The store's clock, in ms."""
        seconds, micros = self._client.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    # -- listing ----------------------------------------------------------------------------------------------------

    def rows(self, statuses: Iterable[str], since: int, until: int, below: Row | None) -> Iterator[Row]:
        """Newest first, between two times in ms; `below`: only what comes after that row in this order.

        A run that changes meanwhile becomes the newest, so it is never met twice further down.
        """
        start = until if below is None else min(until, below.changed)
        keys = self._all(statuses)
        replies = self._ask([_range(key, start, since, 0, _FIRST) for key in keys])
        feeds = [self._feed(key, start, since, reply) for key, reply in zip(keys, replies, strict=True) if reply]
        for row in heapq.merge(*feeds, reverse=True):
            if below is None or row < below:
                yield row

    def changes(self, since: int) -> tuple[list[Row], int | None]:
        """Runs whose status changed at `since`, in ms, or later, oldest first; and until when these are all, None: for good."""
        keys = self._all(OPEN + FINAL)
        replies = self._ask([["ZRANGEBYSCORE", key, str(since), "+inf", "WITHSCORES", "LIMIT", "0", str(_PAGE)] for key in keys])
        pages = [_rows(reply) for reply in replies]
        until = min((page[-1].changed for page in pages if len(page) == _PAGE), default=None)
        return sorted(row for page in pages for row in page if until is None or row.changed <= until), until

    def _feed(self, key: str, at: int, since: int, reply: Any) -> Iterator[Row]:
        skip, asked = 0, _FIRST
        while True:
            rows = _rows(reply)
            yield from rows
            if len(rows) < asked:
                return
            last = rows[-1].changed
            # The next page begins at the same millisecond, behind what was read of it.
            skip = (skip if last == at else 0) + sum(row.changed == last for row in rows)
            at, asked = last, min(asked * 2, _MOST)
            (reply,) = self._ask([_range(key, at, since, skip, asked)])

    def heads(self, runs: Sequence[tuple[str, RunId]]) -> list[dict[str, str]]:
        """What is known of each run and of its namespace's owner; without "status" where the run is gone.

        Progress is bytes, which `surrogateescape` gives back.
        """
        commands = []
        for namespace, run in runs:
            encoded = str(run)
            fields = (*(f"{encoded}:{name}" for name in _OF_RUN), *_OF_NAMESPACE)
            commands.append(["HMGET", self._keys.namespace(namespace).run, *fields])
        names = _OF_RUN + _OF_NAMESPACE
        return [
            {name: value.decode(errors="surrogateescape") for name, value in zip(names, reply, strict=True) if value is not None}
            for reply in self._ask(commands)
        ]

    def newest(self) -> tuple[Any, ...]:
        """What changes with every change of a run's status: each moves a run to the top of an index."""
        return tuple(self._ask([["ZREVRANGE", key, "0", "0", "WITHSCORES"] for key in self._all(OPEN + FINAL)]))

    def keys_of(self, namespace: str) -> NamespaceKeys:
        return self._keys.namespace(namespace)

    def tips(self, namespace: str) -> tuple[Any, ...]:
        """Where the journal and the log of a namespace end."""
        keys = self._keys.namespace(namespace)
        journal, log = self._ask([["HGET", keys.run, "tip"], ["XREVRANGE", keys.log, "+", "-", "COUNT", "1"]])
        return journal, log[0][0] if log else None

    def entries(self, places: Sequence[tuple[str, str]]) -> list[Entry | None]:
        """The entry with each id, by (namespace, id); None where it is gone."""
        commands = [["XRANGE", self._keys.namespace(namespace).journal, id, id] for namespace, id in places]
        return [next(iter(entries_of(reply)), None) for reply in self._ask(commands)]

    def lines(self, namespace: str) -> Iterator[tuple[str, bytes, bytes]]:
        """The log of a namespace, newest line first: (id, when it was said in ms as text, packed)."""
        key, end = self._keys.namespace(namespace).log, "+"
        while True:
            (page,) = self._ask([["XREVRANGE", key, end, "-", "COUNT", str(_PAGE)]])
            for id, (at, data) in page:
                yield id.decode(), at, data
            if len(page) < _PAGE:
                return
            end = f"({page[-1][0].decode()}"

    def lines_after(self, namespace: str, id: str, count: int) -> list[tuple[str, bytes, bytes]]:
        """As `lines`, but oldest first, after the one with that id, and at most so many."""
        reply = self._client.call("XRANGE", self._keys.namespace(namespace).log, f"({id}", "+", "COUNT", str(count))
        return [(id.decode(), at, data) for id, (at, data) in reply]

    # -- looking up -------------------------------------------------------------------------------------------------

    def runs_in(self, namespace: str, task_id: str | None = None) -> list[RunId]:
        """The runs of a namespace, or those with this task id, in no order."""
        pattern = "*:status" if task_id is None else f"*/{encode(task_id)}/*:status"
        key, cursor = self._keys.namespace(namespace).run, "0"
        found: set[str] = set()
        while True:
            reply = self._client.call("HSCAN", key, cursor, "MATCH", pattern, "COUNT", "1000")
            found.update(field.decode().removesuffix(":status") for field in reply[1][::2])
            cursor = reply[0].decode()
            if cursor == "0":
                return [RunId.parse(run) for run in found]

    def has_journal(self, namespace: str) -> bool:
        return bool(self._client.call("EXISTS", self._keys.namespace(namespace).journal))

    # -- counting ---------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many runs have each status."""
        statuses, size = OPEN + FINAL, self._keys.partitions
        replies = self._ask([["ZCARD", key] for key in self._all(statuses)])
        return {status: sum(replies[i * size : (i + 1) * size]) for i, status in enumerate(statuses)}

    def tickets(self, app: str) -> Tickets:
        keys = [self._keys.due(p, app) for p in range(self._keys.partitions)]
        now = self.now()
        commands: list[list[str]] = []
        for key in keys:
            commands += (["ZCARD", key], ["ZCOUNT", key, "-inf", str(now)], ["ZRANGE", key, "0", "0", "WITHSCORES"])
        replies = self._ask(commands)
        oldest = min((int(float(first[1])) for first in replies[2::3] if first), default=now)
        return Tickets(sum(replies[::3]), sum(replies[1::3]), max(0, now - oldest))

    def without_message(self, app: str) -> list[tuple[str, RunId]]:
        """Runs that cannot be delivered again, among the tickets that are due next: a sample."""
        keys = [self._keys.due(p, app) for p in range(self._keys.partitions)]
        replies = self._ask([["ZRANGE", key, "0", str(_PAGE - 1)] for key in keys])
        runs = [split_member(member.decode()) for reply in replies for member in reply]
        known = self._ask([["HEXISTS", self._keys.namespace(namespace).messages, str(run)] for namespace, run in runs])
        return [run for run, there in zip(runs, known, strict=True) if not there]

    # -- purging ----------------------------------------------------------------------------------------------------

    def oldest(self, statuses: Iterable[str], until: int) -> list[tuple[str, str, RunId]]:
        """Some of the runs that changed last before `until`: (status, namespace, run)."""
        found = []
        for status in statuses:
            replies = self._ask(
                [["ZRANGEBYSCORE", key, "-inf", str(until), "LIMIT", "0", str(_PAGE)] for key in self._all([status])]
            )
            found += [(status, *split_member(member.decode())) for reply in replies for member in reply]
        return found

    def purge(self, runs: Sequence[tuple[str, str, RunId]]) -> int:
        """Drop finished runs, given as (status, namespace, run); with the last run of a namespace go all its keys.

        Returns how many were dropped: one that is not in the index of that status stays.
        """
        forget, drop = self._client.script("forget"), self._client.script("drop")
        commands = []
        for status, namespace, run in runs:
            keys = self._keys.namespace(namespace)
            commands.append(forget([self._keys.status(keys.partition, status)], keys.prefix, "0", "1", keys.member(str(run))))
        spaces = {namespace: self._keys.namespace(namespace) for _, namespace, _ in runs}
        replies = self._ask([*commands, *(drop(keys.all, keys.prefix, keys.encoded, "") for keys in spaces.values())])
        gone = {namespace for namespace, dropped in zip(spaces, replies[len(runs) :], strict=True) if dropped}
        self._forget_ids([(namespace, run) for _, namespace, run in runs if namespace in gone and namespace != run.id])
        return sum(replies[: len(runs)])

    def _forget_ids(self, runs: Sequence[tuple[str, RunId]]) -> None:
        keys = [self._keys.index(run.id) for _, run in runs]
        found = self._ask([["GET", key] for key in keys])
        # The same task id may run in another namespace by now.
        stale = [
            key
            for key, value, (namespace, _) in zip(keys, found, runs, strict=True)
            if value == namespace.encode(errors="surrogatepass")
        ]
        self._ask([["DEL", key] for key in stale])


def _range(key: str, start: int, since: int, skip: int, count: int) -> list[str]:
    return ["ZREVRANGEBYSCORE", key, str(start), str(since), "WITHSCORES", "LIMIT", str(skip), str(count)]


def _rows(reply: Any) -> list[Row]:
    return [Row(int(float(score)), member) for member, score in zip(reply[::2], reply[1::2], strict=True)]
