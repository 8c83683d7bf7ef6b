"""Exchanges with Redis: whole round trips, on connections that are never left with an unread reply."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from importlib import resources
from typing import Any

import redis
import redis.exceptions as errors
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_steps.errors import StoreUnavailable

Argument = str | bytes
Command = Sequence[Argument]

#: hiredis takes a millisecond to pack a megabyte, Python a few microseconds.
_HIREDIS_LIMIT = 16_384
#: Error replies that say "not now": a failover, a restart.
_NOT_NOW = (
    errors.ReadOnlyError,
    errors.BusyLoadingError,
    errors.MasterDownError,
    errors.TryAgainError,
    errors.ClusterDownError,
)
#: The same, without a class of their own: a full disk, too few replicas.
_REFUSES_WRITES = ("MISCONF", "NOREPLICAS")
#: Out of memory, a write that follows a handler's effect must still go through. Redis 7 learns that from this line.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_MAY_BE_REFUSED = {"claim", "borrow", "tell"}
#: These see to that themselves, with any server: COMMIT, which says so; CLAIM and BORROW of who owns the namespace already.
_UNFLAGGED = {*_MAY_BE_REFUSED, "commit"}


def _pack(command: Command) -> bytes:
    if sum(map(len, command)) < _HIREDIS_LIMIT:
        packed: bytes = pack_command(tuple(command))  # type: ignore[arg-type]
        return packed
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument.encode() if isinstance(argument, str) else argument
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


class Script:
    """One Lua file, known to the server by its hash."""

    def __init__(self, name: str) -> None:
        folder = resources.files("celery_steps.store") / "lua"
        source = (folder / f"{name}.lua").read_text()
        if "ARGV  prefix, namespace" in source:
            source = (folder / "_namespace.lua").read_text() + source
        self.name = name
        self.source = source
        self.sha = ""

    def __call__(self, keys: Sequence[str], *arguments: Argument) -> list[Argument]:
        return ["EVALSHA", self.sha, str(len(keys)), *keys, *arguments]


class Client:
    """A few connections to one Redis, for threads, greenlets and forked children.

    Every command sent through it must be safe to send twice: after a lost connection the whole exchange is sent again.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None, patience: float = 30.0) -> None:
        """
        Args:
            url: `redis://`, `rediss://` or `unix://`.
            options: passed to redis-py.
            patience: seconds for which an exchange goes on trying when Redis does not answer.
        """
        defaults = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
        # RESP2: one shape of replies everywhere, and nothing pushed in between.
        fixed = {"protocol": 2, "decode_responses": False, "retry": Retry(NoBackoff(), 0)}
        self._pool = redis.ConnectionPool.from_url(url, **{**defaults, **(options or {}), **fixed})
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()
        self.patience = patience
        self.scripts: dict[str, Script] = {}
        self._flags: bool | None = None

    @property
    def address(self) -> str:
        """Where this client connects, without secrets."""
        return _address(self._pool)

    def script(self, name: str) -> Script:
        """The script of that file, loaded into the server (one extra round trip in a process's life)."""
        try:
            return self.scripts[name]
        except KeyError:
            script = Script(name)
            script.sha = self._load(script)
            return self.scripts.setdefault(name, script)

    def _load(self, script: Script) -> str:
        if script.name not in _UNFLAGGED and self._knows_flags():
            script.source = _ALLOW_OOM + script.source
        return str(self.call("SCRIPT", "LOAD", script.source).decode())

    def _knows_flags(self) -> bool:
        """Whether the server reads a script's first line: Redis 7 does, 6.2 and fakeredis take it for a syntax error."""
        # No functools.cached_property: before Python 3.12 it has a lock, which a child forked meanwhile would wait for for ever.
        if self._flags is None:
            (reply,) = self.exchange(["EVAL", _ALLOW_OOM + "return 1", "0"])
            self._flags = not isinstance(reply, Exception)
        return self._flags

    def call(self, *command: Argument) -> Any:
        """One command, its reply; an error reply is raised."""
        (reply,) = self.exchange(command)
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"Redis at {self.address} answered {reply} to {command[0]!r}") from reply
        return reply

    def run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        """One script, its reply; an error reply is raised."""
        return self.call(*self.script(name)(keys, *arguments))

    def exchange(self, *commands: Command) -> list[Any]:
        """Send commands together and read all their replies: one round trip.

        Returns the replies in order; an error reply is returned as an exception, not raised.
        Raises StoreUnavailable when Redis did not answer within `patience`.
        """
        deadline = time.monotonic() + self.patience
        pause, reloaded = 0.01, False
        while True:
            try:
                replies = self._once(commands)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                trouble: Exception = error
                self.close()  # what was idle is as old
            except redis.RedisError as error:  # while connecting: no such database, no permission
                raise StoreUnavailable(
                    f"Redis at {self.address} refuses the connection: {error}. Correct steps_backend."
                ) from error
            else:
                failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
                if isinstance(failed, errors.NoScriptError) and not reloaded:
                    self._reload()  # the server was restarted or its scripts were flushed
                    reloaded = True
                    continue
                not_now = isinstance(failed, _NOT_NOW) or str(failed).startswith(_REFUSES_WRITES)
                if failed is None or not not_now:
                    return replies
                trouble = failed
                self.close()
            if time.monotonic() + pause > deadline:
                raise StoreUnavailable(
                    f"Redis at {self.address} (steps_backend) cannot be reached: {trouble}. Start it, or correct steps_backend."
                ) from trouble
            time.sleep(pause)  # the pace of reconnecting
            pause = min(pause * 2, 0.5)

    def _once(self, commands: Sequence[Command]) -> list[Any]:
        if self._pid != os.getpid():  # forked: the parent's sockets are not ours
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            # Not by the pool: that counts what it made, lost ones too, and refuses the hundredth.
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
        clean = False
        try:
            connection.send_packed_command([b"".join(map(_pack, commands)) if len(commands) > 1 else _pack(commands[0])])
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except (errors.ResponseError, *_NOT_NOW) as error:
                    replies.append(error)
            clean = True
            return replies
        finally:
            # A signal in the middle of an exchange (soft time limit) leaves a reply unread.
            if clean:
                self._idle.append(connection)
            else:
                connection.disconnect()

    def _reload(self) -> None:
        for script in list(self.scripts.values()):
            self.call("SCRIPT", "LOAD", script.source)

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().disconnect()


def address_of(url: str) -> str | None:
    """Where a URL leads, without secrets; None if it is not Redis."""
    try:
        return _address(redis.ConnectionPool.from_url(url))
    except ValueError:
        return None


def _address(pool: redis.ConnectionPool) -> str:
    kwargs = pool.connection_kwargs
    if "path" in kwargs:
        return f"unix://{kwargs['path']}?db={kwargs.get('db', 0)}"
    return f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{kwargs.get('db', 0)}"
