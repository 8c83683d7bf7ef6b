"""What one attempt asks of its namespace: one method a transition. Times in ms; each is safe to send twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery_steps.errors import StoreUnavailable
from celery_steps.store.keys import RunId, decode, encode
from celery_steps.store.replies import Append, Await, Claim, Entry, Event

if TYPE_CHECKING:
    from celery_steps.store.store import Store

#: Entries in one round trip of a load.
PAGE = 1000
#: Lines that a namespace's log keeps, more or less.
LINES = "10000"


class Binding:
    """A store, bound to (namespace, run, owner)."""

    skipped_ms = None

    def __init__(self, store: Store, namespace: str, run: RunId, token: str, app: str, reopened: int = 0) -> None:
        self.store = store
        self.namespace = namespace
        self.run = run
        self.token = token
        self.app = app
        self.reopened = reopened
        self._client = store.client
        self._keys = store.keys.namespace(namespace)
        self._t = str(run)
        self._head = (self._keys.prefix, self._keys.encoded, self._t, token)
        self._commit_keys = (self._keys.journal, self._keys.run)
        self.heads: list[RunId] = []  # held runs that this attempt set free: to be published

    def elsewhere(self, namespace: str) -> Binding:
        """The same owner, in a namespace to borrow for one step."""
        other = Binding(self.store, namespace, self.run, self.token, self.app)
        other._head = (other._keys.prefix, other._keys.encoded, "", self.token)
        other._t = ""
        return other

    # -- claim ------------------------------------------------------------------------------------------------------

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
        """CLAIM and the journal (beyond entry id `after`), in one round trip while it fits a page."""
        run: list[str | bytes] = [*self._head, nonce, self.store.lease_ms, str(retries), message, str(expect or "")]
        run += ["1" if known_only else "", entry, encode(self.app), self.run.task, str(self.reopened)]
        commands: list[Sequence[str | bytes]] = [
            self._client.script("claim")(self._keys.all, *run),
            self._xrange(f"({after}" if after else "-"),
        ]
        # A run that is known has its index; one that is not may never begin a step.
        indexed = self.namespace != self.run.id and not known_only and not expect
        if indexed:
            value = self.namespace.encode(errors="surrogatepass")
            commands.insert(0, ["SET", self.store.keys.index(self.run.id), value])
        if not expect:  # also of an attempt after one that met the mark and crashed
            commands.insert(0, ["GET", self.store.keys.cancelled(self.run.id)])
        replies = self._client.exchange(*commands)
        claimed, page = replies[-2:]
        claim = _claim(claimed)
        if not expect and replies[0] is not None:
            claim = claim._replace(cancelled=True)
        if indexed and claim.verdict in ("SETTLED", "LOST"):
            self._client.call("PEXPIRE", self.store.keys.index(self.run.id), self.store.retention_ms)
        return claim, (self._pages(page) if claim.verdict in ("OK", "FINISHED", "SETTLED") else [])

    def _xrange(self, start: str) -> list[str]:
        return ["XRANGE", self._keys.journal, start, "+", "COUNT", str(PAGE)]

    def _pages(self, page: Any) -> list[Entry]:
        entries = _entries(page)
        while len(page) == PAGE:
            (page,) = self._client.exchange(self._xrange(f"({entries[-1].id}"))
            entries += _entries(page)
        return entries

    def read(self, first: str) -> list[Entry]:
        """The journal from entry id `first` on, itself included."""
        (page,) = self._client.exchange(self._xrange(first))
        return self._pages(page)

    # -- while owner ------------------------------------------------------------------------------------------------

    def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append:
        """COMMIT (id, kind, packed) entries. `record`: something new is recorded, so crashes start from 0 again."""
        arguments: list[str | bytes] = [before, after, f"{self._t}:crashes" if record else ""]
        for entry in entries:
            arguments += entry
        return Append(self._client.run("commit", self._commit_keys, *arguments))

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
        """SUSPEND for `delay`, or until an awaited event comes; NEWS if the inbox holds something after `seen` ("": never)."""
        arguments: list[str | bytes] = [before, after, str(delay), status, seen, str(len(awaits))]
        for event, wait, match in awaits:
            arguments += (encode(event), wait, match)
        for entry in entries:
            arguments += entry
        return self._leave("suspend", *arguments)

    def inbox(self, after: str) -> list[Event]:
        """What came into the namespace's inbox after the event with that id ("": all)."""
        found: list[Event] = []
        while True:
            start = f"({found[-1].id}" if found else f"({after}" if after else "-"
            page = self._client.call("XRANGE", self._keys.inbox, start, "+", "COUNT", str(PAGE))
            for id, (name, data, to, event_id) in page:
                found.append(Event(id.decode(), decode(name.decode()), data, to.decode(), event_id.decode()))
            if len(page) < PAGE:
                return found

    def receive(
        self,
        before: str,
        after: str,
        entries: Sequence[tuple[str, str, bytes]],
        *,
        ended: Sequence[Await],
        taken: Sequence[str],
    ) -> Append:
        """RECEIVE: COMMIT that ends waits and takes events, by their ids, out of the inbox."""
        arguments: list[str | bytes] = [*self._head[:3], before, after, str(len(ended)), str(len(taken))]
        for event, wait, _ in ended:
            arguments += (encode(event), wait)
        arguments += taken
        for entry in entries:
            arguments += entry
        return Append(self._client.run("receive", self._keys.all, *arguments))

    def retry(self, before: str, after: str, id: str, entry: bytes, delay: int, retries: int, message: bytes) -> Append:
        return self._leave("retry", before, after, id, entry, str(delay), str(retries), message)

    def finish(self, before: str, after: str, id: str, entry: bytes) -> Append:
        return self._leave("finish", before, after, id, entry, self.store.lease_ms)

    def finish_and_settle(self, before: str, after: str, id: str, entry: bytes, state: str) -> Append:
        """FINISH and SETTLE in one round trip: Celery has stored the state before."""
        arguments = (*self._head, before, after, id, entry, self.store.lease_ms)
        replies = self._client.exchange(self._client.script("finish")(self._keys.all, *arguments), *self._settle(state))
        return self._freed(raised(replies[0]))

    def _leave(self, script: str, *arguments: str | bytes) -> Append:
        return self._freed(self._client.run(script, self._keys.all, *self._head, *arguments))

    def _freed(self, reply: Any) -> Append:
        if len(reply) > 1 and reply[1]:
            self.heads.append(RunId.parse(reply[1].decode()))
        return Append(reply[0])

    def settle(self, state: str) -> bool:
        """SETTLE as what Celery stored: succeeded, failed or cancelled. False: the run has no outcome."""
        return bool(raised(self._client.exchange(*self._settle(state))[0]))

    def _settle(self, state: str) -> list[list[str | bytes]]:
        arguments = (*self._head, state, self.store.retention_ms)
        commands = [self._client.script("settle")(self._keys.all, *arguments)]
        if self.namespace != self.run.id:
            commands.append(["PEXPIRE", self.store.keys.index(self.run.id), self.store.retention_ms])
        if state == "cancelled":  # the run itself says so from here on
            commands.append(["DEL", self.store.keys.cancelled(self.run.id)])
        return commands

    def release(self, delay: int) -> bool:
        """RELEASE: give the namespace back unfinished; the ticket is due after `delay`."""
        return self._leave("release", str(delay)) == Append.OK

    def renew(self) -> int:
        """RENEW: the newest fence of the namespace, 0 if another owns it."""
        return int(self._client.run("renew", self._keys.all, *self._head, self.store.lease_ms))

    def begin_rollback(self, nonce: str, entry: bytes) -> None:
        """Celery has stored how the run ends: from now on it only undoes what it did. The next append meets a new fence.

        Whoever has been replaced begins nothing: that append tells.
        """
        self.store.control(self.namespace, self.run, what="rollback", nonce=nonce, entry=entry, owner=self.token)

    def tell(self, id: str, place: str, line: bytes, progress: bytes) -> bool:
        """TELL a line, or progress, or both; `id` is newer than the one before. False: another owns the namespace."""
        arguments = (*self._head, id, place, line, progress, LINES)
        return bool(self._client.run("tell", self._keys.all, *arguments))

    def abandon(self) -> bool:
        """ABANDON: the journal is gone. True if the run was open and now ends as lost."""
        return self._leave("abandon", self.store.lease_ms) == Append.OK

    # -- a borrowed namespace ---------------------------------------------------------------------------------------

    def borrow(self, nonce: str, entry: bytes) -> tuple[Claim, list[Entry]]:
        """BORROW and the journal, in one round trip."""
        arguments = (*self._head, nonce, self.store.lease_ms, entry, self.store.retention_ms)
        claimed, page = self._client.exchange(self._client.script("borrow")(self._keys.all, *arguments), self._xrange("-"))
        claim = _claim(claimed)
        return claim, (self._pages(page) if claim.verdict == "OK" else [])

    def giveback(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]]) -> Append:
        """GIVEBACK: record the step (no entries: nothing) and free the namespace."""
        arguments: list[str | bytes] = [before, after, self.store.retention_ms]
        for entry in entries:
            arguments += entry
        return self._leave("giveback", *arguments)


def _claim(reply: Any) -> Claim:
    verdict, *rest = (part.decode() for part in raised(reply))
    if verdict == "OK":
        fence, uid, now, *counts = rest
        crashes, attempts, told = counts or ("0", "0", "")
        return Claim("OK", int(fence), uid, int(now), int(crashes), int(attempts), told=told)
    if verdict in ("SETTLING", "EARLY") or (verdict == "HELD" and rest):
        return Claim(verdict, wait=int(rest[0]))
    return Claim(verdict, detail=" ".join(rest))


def _entries(page: Any) -> list[Entry]:
    return [Entry(id.decode(), fields[0].decode(), fields[1]) for id, fields in raised(page)]


def raised(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise StoreUnavailable(f"Redis refused: {reply}") from reply
    return reply
