"""Kill points of a process: each exchange with Redis, by whomever: the store, Celery's result backend, its broker, an effect.

An exchange has a point before it is sent, one for each command of it executed, and one when the reply is read.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
from typing import Any

from hiredis import Reader, pack_command
from redis.connection import AbstractConnection

#: What a process tells of itself through shared memory: points passed, then the name of the last.
_SLOT = struct.Struct("I60s")


class Points:
    """Counts the points that the main thread of this process passes; SIGKILL at the nth."""

    def __init__(self, memory: Any, fatal: int, names: dict[str, str]) -> None:
        """
        Args:
            memory: `SIZE` bytes, shared with who wants to know.
            fatal: the number of the point at which to die, from 1; 0 for never.
            names: of scripts, by their hash.
        """
        self._memory = memory
        self._fatal = fatal
        self._names = names
        self._passed = 0
        self._connecting = False
        self._unread: set[int] = set()

    SIZE = _SLOT.size

    @staticmethod
    def read(memory: Any) -> tuple[int, str]:
        """How many points were passed, and the name of the last."""
        passed, name = _SLOT.unpack(memory)
        return passed, name.rstrip(b"\0").decode()

    def _pass(self, name: str) -> bool:
        """True if this is the fatal one."""
        self._passed += 1
        _SLOT.pack_into(self._memory, 0, self._passed, name.encode()[:60])
        return self._passed == self._fatal

    def install(self) -> None:
        """From now on every connection of redis-py in this process has points."""
        points, send, read = self, AbstractConnection.send_packed_command, AbstractConnection.read_response

        def send_with_points(self: Any, command: Any, check_health: bool = True) -> None:
            if points._connecting or threading.current_thread() is not threading.main_thread():
                return send(self, command, check_health)
            commands = _commands(command)
            name = points._name(commands)
            if points._pass(f"before {name}"):
                die()
            for i in range(1, len(commands)) if commands[0] != [b"MULTI"] else ():  # that is executed as a whole or not at all
                if points._pass(f"{i} of {name} executed"):
                    send(self, [b"".join(pack_command(tuple(one)) for one in commands[:i])], check_health)
                    _die_when_answered(self)
            send(self, command, check_health)
            if points._pass(f"{name} executed"):
                _die_when_answered(self)
            points._unread.add(id(self))

        def read_with_points(self: Any, *args: Any, **kwargs: Any) -> Any:
            reply = read(self, *args, **kwargs)
            if id(self) in points._unread and not points._connecting:
                points._unread.discard(id(self))
                if points._pass("reply read"):
                    die()
            return reply

        setattr(AbstractConnection, "send_packed_command", send_with_points)  # noqa: B010
        setattr(AbstractConnection, "read_response", read_with_points)  # noqa: B010
        for method in {"connect", "connect_check_health"} & vars(AbstractConnection).keys():  # the second since redis-py 6
            setattr(AbstractConnection, method, self._without_points(getattr(AbstractConnection, method)))

    def _without_points(self, connect: Any) -> Any:
        def connecting(*args: Any, **kwargs: Any) -> Any:
            before, self._connecting = self._connecting, True
            try:
                return connect(*args, **kwargs)
            finally:
                self._connecting = before

        return connecting

    def _name(self, commands: list[list[bytes]]) -> str:
        words = [
            self._names.get(command[1].decode(), "EVALSHA") if command[0] == b"EVALSHA" else command[0].decode()
            for command in commands
        ]
        return "+".join(words)


def _commands(packed: Any) -> list[list[bytes]]:
    reader = Reader()
    for chunk in [packed] if isinstance(packed, (bytes, str)) else packed:
        reader.feed(chunk)
    return list(iter(reader.gets, False))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_when_answered(connection: Any) -> None:
    # Waited for, so that it is executed for certain: closing a socket with unread data can discard what was sent.
    select.select([connection._sock], [], [], 5)
    die()
