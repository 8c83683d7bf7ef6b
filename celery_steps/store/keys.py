"""Names of keys. All that one transition touches shares the hash tag `{p}`, so it lies in one slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote
from zlib import crc32

FINAL = ("succeeded", "failed", "cancelled")
#: It has left its worker and said for what.
AWAY = ("suspended", "paused", "in_doubt", "rolling_back")
OPEN = ("held", "running", "suspended", "retrying", "paused", "in_doubt", "rolling_back")
#: Of log lines, the least grave first.
LEVELS = ("debug", "info", "warning", "error")


def encode(text: str) -> str:
    """Percent-encoded: injective, and without spaces, colons, braces or control characters."""
    return quote(text, safe="", errors="surrogatepass")


def decode(text: str) -> str:
    return unquote(text, errors="surrogatepass")


class RunId(NamedTuple):
    """One durable execution of a task call, over all its deliveries."""

    task: str
    id: str
    nesting: int = 0  # `replace` keeps the task id: Celery's replaced_task_nesting tells them apart

    def __str__(self) -> str:
        return f"{encode(self.task)}/{encode(self.id)}/{self.nesting}"

    @classmethod
    def parse(cls, text: str) -> RunId:
        task, id, nesting = text.split("/")
        return cls(decode(task), decode(id), int(nesting))


@dataclass(frozen=True, slots=True)
class NamespaceKeys:
    """The keys of one namespace."""

    partition: int
    prefix: str
    encoded: str
    journal: str
    run: str
    messages: str
    held: str
    inbox: str
    heard: str
    log: str

    @property
    def all(self) -> tuple[str, ...]:
        return self.journal, self.run, self.messages, self.held, self.inbox, self.heard, self.log

    def member(self, run: str) -> str:
        """How a run of this namespace is named in the tickets and in the indexes."""
        return f"{self.encoded} {run}"


@dataclass(frozen=True, slots=True)
class Keys:
    prefix: str
    partitions: int

    def tag(self, partition: int) -> str:
        return f"{self.prefix}:{{{partition}}}:"

    def _partition(self, encoded: str) -> int:
        return crc32(encoded.encode()) % self.partitions

    def namespace(self, namespace: str) -> NamespaceKeys:
        encoded = encode(namespace)
        partition = self._partition(encoded)
        tag = self.tag(partition)
        return NamespaceKeys(
            partition,
            tag,
            encoded,
            f"{tag}journal:{encoded}",
            f"{tag}run:{encoded}",
            f"{tag}msg:{encoded}",
            f"{tag}held:{encoded}",
            f"{tag}inbox:{encoded}",
            f"{tag}heard:{encoded}",
            f"{tag}log:{encoded}",
        )

    def due(self, partition: int, app: str) -> str:
        return f"{self.tag(partition)}due:{encode(app)}"

    def status(self, partition: int, status: str) -> str:
        return f"{self.tag(partition)}status:{status}"

    def waiting(self, partition: int, event: str) -> str:
        """Who waits for an event of this name, in one partition."""
        return f"{self.tag(partition)}waiting:{encode(event)}"

    def triggers(self, event: str) -> str:
        """Which tasks start on an event of this name."""
        return f"{self.prefix}:triggers:{encode(event)}"

    @property
    def triggering(self) -> str:
        """The events on which tasks start."""
        return f"{self.prefix}:triggering"

    def index(self, task_id: str) -> str:
        """Leads from a task id to its namespace, where that is not the id itself."""
        encoded = encode(task_id)
        return f"{self.tag(self._partition(encoded))}id:{encoded}"

    def cancelled(self, task_id: str) -> str:
        """The mark of a run that was cancelled before it began."""
        encoded = encode(task_id)
        return f"{self.tag(self._partition(encoded))}cancel:{encoded}"

    @property
    def meta(self) -> str:
        return f"{self.prefix}:meta"


def split_member(member: str) -> tuple[str, RunId]:
    """The namespace and the run that `NamespaceKeys.member` wrote."""
    namespace, run = member.split(" ")
    return decode(namespace), RunId.parse(run)
