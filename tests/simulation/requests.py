"""What an attempt sends, word for word: made by the package's own store, with nobody at the other end."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, NoReturn

from celery_steps.settings import Settings
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from simulation.redis_in_python import Command

NAMESPACE = "ns"
APP = "app"
#: Of a lease, and of every other delay in the simulation.
TTL_MS = 30_000
#: Redis's time in ms: it stands still, and instants are moved instead.
NOW = 1_000_000
FUTURE = NOW + TTL_MS
#: Before the clock stepped back this was soon.
FAR = NOW + 100 * TTL_MS


class _Sent(Exception):
    def __init__(self, commands: tuple[Command, ...]) -> None:
        self.commands = commands


def _text(argument: str | bytes) -> str:
    return argument.decode("latin-1") if isinstance(argument, bytes) else argument


class _Nobody:
    """Stands where the client is, and keeps what is sent."""

    def script(self, name: str) -> Any:
        return lambda keys, *arguments: ["EVALSHA", name, str(len(keys)), *keys, *arguments]

    def exchange(self, *commands: list[str | bytes]) -> NoReturn:
        raise _Sent(tuple(tuple(map(_text, command)) for command in commands))

    def call(self, *command: str | bytes) -> NoReturn:
        self.exchange(list(command))

    def run(self, name: str, keys: Any, *arguments: str | bytes) -> NoReturn:
        self.exchange(self.script(name)(keys, *arguments))


STORE = Store(Settings(backend="redis://nowhere", partitions=1, lease_ttl=TTL_MS / 1000), client=_Nobody())  # type: ignore[arg-type]
KEYS = STORE.keys.namespace(NAMESPACE)
DUE = STORE.keys.due(0, APP)
#: What a message counts beside Celery's retries: how often the run was reopened, this many for each.
REOPENED = 10
#: The one event, its data as they match and as they do not, and who waits for it.
EVENT, DATA, NOISE = "e", b"data", b"noise"
WAITING = STORE.keys.waiting(0, EVENT)


@cache
def run_id(run: int) -> RunId:
    return RunId("task", str(run))


@cache
def field(run: int) -> str:
    """How the run is named in the scripts."""
    return str(run_id(run))


@cache
def member(run: int) -> str:
    """How the run is named in tickets and indexes."""
    return KEYS.member(field(run))


@cache
def binding(token: str, run: int, method: str, *arguments: Any, **options: Any) -> tuple[Command, ...]:
    """The commands of `Binding.method`. What is kept by task id lies in another slot and is left out."""
    bound = STORE.bind(NAMESPACE, run_id(run), token, APP, options.pop("reopened", 0))
    return _sent(getattr(bound, method), *arguments, **options)


@cache
def borrower(token: str, run: int, method: str, *arguments: Any) -> tuple[Command, ...]:
    """The commands of a run that lives elsewhere and borrows this namespace."""
    elsewhere = STORE.bind("elsewhere", run_id(run), token, APP)
    return _sent(getattr(elsewhere.elsewhere(NAMESPACE), method), *arguments)


@cache
def store(run: int, method: str, *arguments: Any, **options: Any) -> tuple[Command, ...]:
    """The commands of a method of the store about one run."""
    return _sent(getattr(STORE, method), NAMESPACE, run_id(run), *arguments, **options)


@cache
def deliver(event: str, id: str, run: int | None = None, wait: str = "", data: bytes = DATA) -> tuple[Command, ...]:
    return _sent(STORE.deliver, NAMESPACE, event, id, data, run=None if run is None else run_id(run), wait=wait)


@cache
def take(run: int) -> tuple[Command, ...]:
    """SWEEP of one run's ticket, by whoever made it due."""
    return _sent(STORE.take, APP, NAMESPACE, run_id(run))


@cache
def sweep() -> tuple[Command, ...]:
    return _sent(STORE.sweep, APP)


def arguments(command: Command) -> tuple[str, ...]:
    """What follows the keys of a script."""
    return command[3 + int(command[2]) :]


def _sent(method: Any, *arguments: Any, **options: Any) -> tuple[Command, ...]:
    try:
        method(*arguments, **options)
    except _Sent as sent:
        elsewhere = (STORE.keys.index(""), STORE.keys.cancelled(""))
        return tuple(command for command in sent.commands if not command[1].startswith(elsewhere))
    raise AssertionError(f"{method} sent nothing")


def scripts() -> dict[str, str]:
    """The Lua source of every script by its name, as it is sent to a server."""
    from celery_steps.store.client import Script

    folder = resources.files("celery_steps.store") / "lua"
    names = [path.name.removesuffix(".lua") for path in folder.iterdir() if path.name.endswith(".lua")]
    return {name: Script(name).source for name in sorted(names) if not name.startswith("_")}
