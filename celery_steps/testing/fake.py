"""The store over fakeredis: the real scripts, at virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fakeredis

from celery_steps.errors import StepsError
from celery_steps.settings import Settings
from celery_steps.store.client import Client, Command
from celery_steps.store.store import Store
from celery_steps.testing.clock import Clock, let_fakeredis_tell


class FakeClient(Client):
    """The project's client over fakeredis's connections.

    `around` hears of every exchange that may change something, before and after it, with the names of its scripts. Without a
    clock it is the time of day.
    """

    def __init__(self, server: fakeredis.FakeServer, clock: Clock | None = None) -> None:
        super().__init__("redis://localhost/0")
        self._pool = fakeredis.FakeRedis(server=server, protocol=2).connection_pool
        self._clock = clock
        self.around: Callable[[str, list[str]], None] | None = None

    def exchange(self, *commands: Command) -> list[Any]:
        if self._clock is None:
            return super().exchange(*commands)
        what = [] if self.around is None else self._scripts_of(commands)
        if what and self.around is not None:
            self.around("before", what)
        with self._clock.told():
            replies = super().exchange(*commands)
        if what and self.around is not None:
            self.around("after", what)
        return replies

    def _scripts_of(self, commands: Sequence[Command]) -> list[str]:
        """By their files' names. What goes with them in one exchange is nothing without them."""
        known = {script.sha: script.name for script in self.scripts.values()}
        return [known[command[1]] for command in commands if command[0] == "EVALSHA" and command[1] in known]  # type: ignore[index]


def fake_store(settings: Settings, server: fakeredis.FakeServer, clock: Clock | None = None) -> Store:
    """A store in a fakeredis server. StepsError where this fakeredis does not take its time from the clock."""
    let_fakeredis_tell()
    store = Store(settings, FakeClient(server, clock))
    if clock is not None:
        seconds, micros = store.client.call("TIME")
        if int(seconds) * 1000 + int(micros) // 1000 != clock.now_ms:
            raise StepsError(
                f"fakeredis {getattr(fakeredis, '__version__', '')} does not tell the testing kit's time: install one that does, "
                'pip install "celery-steps[testing]".'
            )
    return store
