"""The store: what is asked of it from beside or outside a run. What an attempt asks is in `binding`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from celery_steps.errors import StepsError
from celery_steps.settings import Settings
from celery_steps.store.binding import Binding, raised
from celery_steps.store.client import Client
from celery_steps.store.keys import FINAL, Keys, RunId, decode, encode, split_member
from celery_steps.store.replies import Entry, Verdict

_PAGE = 500


class Due(NamedTuple):
    """Tickets that a sweep took, and when to look again."""

    runs: list[tuple[str, RunId]]  # namespace, run
    next_ms: int  # -1: no ticket waits


class Delivered(NamedTuple):
    """An event was taken into an inbox."""

    reached: int  # waits that it woke, or that may take it
    due: list[RunId]  # runs of that namespace to publish


class Waiter(NamedTuple):
    """A wait for an event that is not over."""

    namespace: str
    run: RunId
    wait: str
    match: bytes


class Store:
    """One Redis, for one app's settings. Threads, greenlets and forked children may share it."""

    def __init__(self, settings: Settings, client: Client | None = None) -> None:
        self.settings = settings
        self.client = client or Client(settings.backend, settings.redis_options, patience=settings.lease_ttl)
        self.keys = Keys(settings.key_prefix, settings.partitions)
        self.lease_ms = str(int(settings.lease_ttl * 1000))
        self.retention_ms = str(int(settings.retention * 1000))

    def bind(self, namespace: str, run: RunId, token: str, app: str, reopened: int = 0) -> Binding:
        """What one attempt of `run` asks of its namespace; `reopened` is how often the run was, as its message says."""
        return Binding(self, namespace, run, token, app, reopened)

    # -- beside the runs --------------------------------------------------------------------------------------------

    def sweep(self, app: str, limit: int = 100) -> Due:
        """Take the due tickets of one app: each is pushed on, so that only this caller publishes it."""
        script = self.client.script("sweep")
        replies = self.client.exchange(
            *(script([self.keys.due(p, app)], self.keys.tag(p), str(limit), "") for p in range(self.keys.partitions))
        )
        runs: list[tuple[str, RunId]] = []
        nexts: list[int] = []
        for reply in replies:
            if isinstance(reply, Exception):
                raise StepsError(f"the tickets of {app!r} cannot be swept: {reply}") from reply
            runs += [split_member(member.decode()) for member in reply[1:]]
            if int(reply[0]) >= 0:
                nexts.append(int(reply[0]))
        return Due(runs, min(nexts, default=-1))

    def take(self, app: str, namespace: str, run: RunId) -> bool:
        """Take one ticket if it is due: who gets True publishes it."""
        keys = self.keys.namespace(namespace)
        reply = self.client.run("sweep", [self.keys.due(keys.partition, app)], keys.prefix, "1", keys.member(str(run)))
        return len(reply) > 1

    def message(self, namespace: str, run: RunId) -> bytes | None:
        """The stored Celery message of a run."""
        found: bytes | None = self.client.call("HGET", self.keys.namespace(namespace).messages, str(run))
        return found

    def forget(self) -> int:
        """Drop what finished runs past retention left in indexes and hashes; returns how many."""
        script = self.client.script("forget")
        pairs = [(p, status) for p in range(self.keys.partitions) for status in FINAL]
        replies = self.client.exchange(
            *(script([self.keys.status(p, s)], self.keys.tag(p), self.retention_ms, "100", "") for p, s in pairs)
        )
        return sum(reply for reply in replies if not isinstance(reply, Exception))

    def verdict(self, namespace: str, run: RunId, *, process: str, what: str, nonce: str, entry: bytes, token: str) -> Verdict:
        """The main process speaks for a dead child; `what` is lost, failed or cancelled."""
        keys = self.keys.namespace(namespace)
        reply = self.client.run(
            "verdict", keys.all, keys.prefix, keys.encoded, str(run), process, what, nonce, entry, self.lease_ms, token
        )
        verdict = reply[0].decode()
        return Verdict(verdict, int(reply[1]), reply[2].decode()) if verdict == "TAKEN" else Verdict(verdict)

    def control(self, namespace: str, run: RunId, *, what: str, nonce: str, entry: bytes, owner: str = "") -> tuple[str, str]:
        """Append a control entry to a run, whoever owns it, or only while the owner's token begins with `owner`.

        Returns (OK, "1" if its ticket is due now), (REFUSED, status) for a finished run, (UNKNOWN, ""), (LOST, "").
        """
        keys = self.keys.namespace(namespace)
        reply = self.client.run("control", keys.all, keys.prefix, keys.encoded, str(run), what, nonce, entry, owner)
        return reply[0].decode(), reply[1].decode() if len(reply) > 1 else ""

    def mark_cancelled(self, task_id: str) -> None:
        """A run that has not begun: its claims find this mark, until it is settled as cancelled."""
        self.client.call("SET", self.keys.cancelled(task_id), "1", "PX", self.retention_ms)

    def reopen(
        self, namespace: str, run: RunId, nonce: str, entry: bytes, message: bytes, times: int, undoing: bool = False
    ) -> tuple[str, str]:
        """Let a failed or cancelled run begin again, with this message, for the nth time; or go on `undoing`.

        Returns (OK, ""), (REFUSED, status), (UNKNOWN, ""), (LOST, "").
        """
        keys = self.keys.namespace(namespace)
        reply = self.client.run(
            "reopen", keys.all, keys.prefix, keys.encoded, str(run), nonce, entry, message, str(times), "1" if undoing else ""
        )
        found, status = reply[0].decode(), reply[1].decode() if len(reply) > 1 else ""
        if found == "OK":  # and only then: a run that was cancelled and has yet to claim must find its mark
            self.client.exchange(["PERSIST", self.keys.index(run.id)], ["DEL", self.keys.cancelled(run.id)])
        return found, status

    def deliver(
        self, namespace: str, event: str, event_id: str, data: bytes, *, run: RunId | None = None, wait: str = ""
    ) -> Delivered | None:
        """An event for whoever of the namespace waits for it first, or for one wait of one run. None: refused."""
        keys = self.keys.namespace(namespace)
        to = str(run) if run is not None else ""
        arguments = (keys.prefix, keys.encoded, to, encode(event), event_id, data, wait, self.retention_ms)
        accepted, *rest = self.client.run("deliver", keys.all, *arguments)
        if not accepted:
            return None
        return Delivered(int(rest[0]), [RunId.parse(member.decode()) for member in rest[1:]])

    def waiting(self, event: str) -> Iterator[list[Waiter]]:
        """Who waits for an event of this name now, in pages."""
        for partition in range(self.keys.partitions):
            key, after = self.keys.waiting(partition, event), "-"
            while True:
                members = self.client.call("ZRANGEBYLEX", key, after, "+", "LIMIT", "0", str(_PAGE))
                if members:
                    yield self._waiters(members)
                if len(members) < _PAGE:
                    break
                after = f"({members[-1].decode()}"

    def _waiters(self, members: list[bytes]) -> list[Waiter]:
        parts = [member.decode().split(" ") for member in members]
        commands = [["HGET", f"{self.keys.namespace(decode(ns)).run}", f"{run}:match:{wait}"] for ns, run, wait in parts]
        matches = self.client.exchange(*commands)
        return [
            Waiter(decode(ns), RunId.parse(run), wait, match)
            for (ns, run, wait), match in zip(parts, matches, strict=True)
            if isinstance(match, bytes)  # None: it has just ended
        ]

    def release(self, namespace: str, run: RunId, process: str, delay_ms: int) -> bool:
        """Free what a process that is gone held of this run, without counting a crash."""
        keys = self.keys.namespace(namespace)
        reply = self.client.run("release", keys.all, keys.prefix, keys.encoded, str(run), process, str(delay_ms))
        return bool(reply[0])

    # -- looking ----------------------------------------------------------------------------------------------------

    def namespace_of(self, task_id: str) -> str:
        """The namespace in which a task id runs: indexed, or the id itself."""
        found = self.client.call("GET", self.keys.index(task_id))
        return task_id if found is None else found.decode(errors="surrogatepass")

    def namespaces_of(self, task_ids: Sequence[str]) -> list[str]:
        """As `namespace_of`, for several in one round trip."""
        replies = self.client.exchange(*(["GET", self.keys.index(id)] for id in task_ids)) if task_ids else []
        return [
            reply.decode(errors="surrogatepass") if isinstance(reply, bytes) else id
            for id, reply in zip(task_ids, replies, strict=True)
        ]

    def ends(self, runs: Sequence[tuple[str, RunId]]) -> list[tuple[str, Entry | None] | None]:
        """For each run, by its namespace: None if nothing is known of it, else what it settled as and its final entry.

        ("", None) for one that goes on, also as the run that replaced it. Two round trips for all.
        """
        keys = [self.keys.namespace(namespace) for namespace, _ in runs]
        asked = [
            ["HMGET", key.run, f"latest:{encode(run.id)}", f"{run}:status", f"{run}:settled", f"{run}:outcome"]
            for key, (_, run) in zip(keys, runs, strict=True)
        ]
        known = [raised(reply) for reply in self.client.exchange(*asked)] if asked else []
        settled = [i for i, (latest, _, state, _) in enumerate(known) if state is not None and latest is None]
        ranges = [["XRANGE", keys[i].journal, known[i][3].decode(), known[i][3].decode()] for i in settled]
        finals = dict(zip(settled, self.client.exchange(*ranges), strict=True)) if ranges else {}
        found: list[tuple[str, Entry | None] | None] = []
        for i, (latest, status, state, _) in enumerate(known):
            entries = entries_of(raised(finals[i])) if i in finals else []
            if entries:
                found.append((state.decode(), entries[0]))
            else:
                found.append(None if latest is None and status is None else ("", None))
        return found

    def fields(self, namespace: str) -> dict[str, str]:
        """The run hash of a namespace."""
        reply = self.client.call("HGETALL", self.keys.namespace(namespace).run)
        return {reply[i].decode(): reply[i + 1].decode(errors="replace") for i in range(0, len(reply), 2)}  # a match is packed

    def status(self, namespace: str, run: RunId) -> str | None:
        """The status of a run, None if the store does not know it."""
        found = self.client.call("HGET", self.keys.namespace(namespace).run, f"{run}:status")
        return None if found is None else str(found.decode())

    def entries(self, namespace: str) -> Iterator[Entry]:
        """The whole journal, in pages."""
        start = "-"
        while True:
            page = self.read(namespace, start)
            yield from page
            if len(page) < _PAGE:
                return
            start = f"({page[-1].id}"

    def read(self, namespace: str, start: str = "-", count: int = _PAGE) -> list[Entry]:
        reply = self.client.call("XRANGE", self.keys.namespace(namespace).journal, start, "+", "COUNT", str(count))
        return entries_of(reply)


def entries_of(reply: Any) -> list[Entry]:
    """XRANGE's raw reply as entries."""
    return [Entry(id.decode(), fields[0].decode(errors="replace"), fields[1]) for id, fields in reply]
