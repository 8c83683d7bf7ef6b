"""The server at start: may it be used, what can lose journals, and is its data what this app takes it for?"""

from __future__ import annotations

from typing import NamedTuple

from celery_steps.errors import SettingsError, StepsError
from celery_steps.store.store import Store

SCHEMA = 1
_OLDEST_SERVER = (6, 2)


class Trouble(NamedTuple):
    """Something that is wrong, and the one thing to do: two parts of a sentence."""

    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}: {self.do}."


class Server:
    """The Redis server of a store."""

    def __init__(self, store: Store) -> None:
        self._client = store.client
        self._keys = store.keys
        self._partitions = store.settings.partitions

    def check(self) -> list[str]:
        """Look at the server before anything is written to it.

        Returns warnings. Raises SettingsError for a server older than 6.2, an evicting maxmemory-policy, another partition
        count or a newer schema than ours; StoreUnavailable when there is no answer.
        """
        info = self.info()
        for trouble in self.refusals(info):
            raise SettingsError(str(trouble))
        self._agree()
        return [str(risk) for risk in self.risks(info)]

    @property
    def _where(self) -> str:
        return f"Redis at {self._client.address} (steps_backend)"

    def refusals(self, info: dict[str, str]) -> list[Trouble]:
        """For what INFO says: why no worker may use this server."""
        found = []
        version = tuple(int(part) for part in info.get("redis_version", "6.2").split(".")[:2])
        if version < _OLDEST_SERVER:
            what = f"{self._where} is version {info['redis_version']}, celery-steps needs Redis 6.2 or newer"
            found.append(Trouble(what, "upgrade it, or give steps_backend another Redis"))
        policy = info.get("maxmemory_policy", "noeviction")
        if policy.startswith(("allkeys", "volatile")):
            what = f"{self._where} has maxmemory-policy {policy}, so it would delete journals when memory runs out"
            do = "set it to noeviction (CONFIG SET maxmemory-policy noeviction), or give steps_backend a Redis of its own"
            found.append(Trouble(what, do))
        return found

    def risks(self, info: dict[str, str]) -> list[Trouble]:
        """For what INFO says: what can lose journals, in the order of weight."""
        if not info:
            what = f"{self._where} does not answer INFO, so its version, memory policy and persistence are unknown"
            return [Trouble(what, "allow INFO to the user of steps_backend, or check them yourself")]
        if info.get("aof_enabled") in ("0", None) and not self._saves():
            return [Trouble(f"{self._where} has no persistence, a restart loses every journal", "turn on appendonly")]
        return []

    def info(self) -> dict[str, str]:
        """What INFO says; nothing where it is not allowed or not known."""
        (reply,) = self._client.exchange(["INFO"])
        text = "" if isinstance(reply, Exception) else reply.decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _saves(self) -> bool:
        (reply,) = self._client.exchange(["CONFIG", "GET", "save"])
        return isinstance(reply, Exception) or (len(reply) > 1 and bool(reply[1]))  # hosted Redis hides CONFIG

    def appendfsync(self) -> str:
        """How often the append-only file is synced: always, everysec, no; "" where that is hidden."""
        (reply,) = self._client.exchange(["CONFIG", "GET", "appendfsync"])
        return "" if isinstance(reply, Exception) or len(reply) < 2 else reply[1].decode()

    def _agree(self) -> None:
        """One partition count and one schema for all who use these keys."""
        ours = {"schema": SCHEMA, "partitions": self._partitions}
        *_, fields = self._client.exchange(
            *(["HSETNX", self._keys.meta, name, str(value)] for name, value in ours.items()), ["HGETALL", self._keys.meta]
        )
        if isinstance(fields, Exception):
            raise StepsError(f"{self._keys.meta} cannot be read: {fields}")
        for trouble in self.disagreements(_numbers(fields)):
            raise SettingsError(str(trouble))

    def agreed(self) -> dict[str, int]:
        """The schema and the partition count that the data has; nothing before a worker's first start."""
        return _numbers(self._client.call("HGETALL", self._keys.meta))

    def disagreements(self, agreed: dict[str, int]) -> list[Trouble]:
        """Why this app cannot use data of that schema and partition count."""
        prefix, partitions = self._keys.prefix, self._partitions
        theirs = {"schema": SCHEMA, "partitions": partitions, **agreed}
        found = []
        if theirs["schema"] > SCHEMA:
            versions = f"schema {theirs['schema']}, this one knows {SCHEMA}"
            what = f"The data under {prefix!r} was written by a newer celery-steps ({versions})"
            found.append(Trouble(what, "upgrade this worker"))
        if theirs["partitions"] != partitions:
            what = f"steps_partitions is {partitions}, but the data under {prefix!r} has {theirs['partitions']}"
            found.append(Trouble(what, f"set it back to {theirs['partitions']}, or choose another steps_key_prefix"))
        return found


def _numbers(fields: list[bytes]) -> dict[str, int]:
    return {fields[i].decode(): int(fields[i + 1]) for i in range(0, len(fields), 2)}
