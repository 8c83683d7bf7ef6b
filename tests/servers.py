"""Real servers for the tests: on 127.0.0.1, free ports, data in a folder of their own, ended by process id."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil
import pytest
import redis
from amqp import Connection

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 20, message: str | Callable[[], str] = "") -> T:
    """Ask until `condition` returns something true, and return that; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            what = message() if callable(message) else message
            pytest.fail(f"waited {timeout} s in vain: {what or condition}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def server_is_missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def _end(process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
    """End the process and all that it started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if kill:
        process.kill()
    else:
        process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=0 if kill else 5)
    for child in alive:
        child.kill()


class RedisServer:
    """A private redis-server or valkey-server; `options` as on its command line."""

    def __init__(self, folder: Path, *, appendonly: bool = False, options: Sequence[str] = ()) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            server_is_missing("redis-server or valkey-server")
        self.port = free_port()
        self._log = folder / "redis.log"
        self._command = [
            *(binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--databases", "4096", "--save", "", "--appendonly", "yes" if appendonly else "no"),
            *("--logfile", str(self._log), *options),
        ]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self._answers, message=lambda: f"redis-server does not answer\n{self._log.read_text()}")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            pytest.fail(f"redis-server ended while starting\n{self._log.read_text()}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also raised as BusyLoadingError, while it reads its data
            return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, db: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{db}"

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, **options)

    def flushdb(self, db: int = 0) -> None:
        with self.client(db) as client:
            client.flushdb()

    def stop(self, *, kill: bool = False) -> None:
        """End the server, with SIGKILL if asked; what it has not written to disk is gone."""
        _end(self._process, kill=kill)

    def restart(self, *, kill: bool = False) -> None:
        """Stop the server and start it with the data that it had, on the same port.

        With `kill` it gets SIGKILL and comes back with what its append-only file holds.
        """
        if not kill:
            with self.client() as client:
                client.save()
        self.stop(kill=kill)
        self._start()


class RabbitServer:
    """A private RabbitMQ node with its own epmd."""

    def __init__(self, folder: Path) -> None:
        # Debian's wrapper on PATH changes user and folder; the script behind it runs as who we are.
        binary = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}")
        epmd = shutil.which("epmd")
        if binary is None or epmd is None:
            server_is_missing("rabbitmq-server (with Erlang's epmd)")
        self.port, epmd_port = free_port(), free_port()
        self._log = folder / "start.log"
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.absolute = 400MB\n")
        environment = os.environ | {
            "HOME": str(folder),  # for the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": f"steps-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-environment.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # One scheduler and few threads: idle schedulers spin and take memory.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +SDcpu 1:1 +SDio 1 +sbwt none +A 1 "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        with self._log.open("wb") as log:
            # Ours, in the foreground, so that it has a process id to end it by: Erlang starts its own as a daemon.
            foreground = [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(foreground, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._process = subprocess.Popen(
                [binary], env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_until(self._answers, timeout=120, message=lambda: f"no AMQP connection\n{self._log.read_text()}")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            pytest.fail(f"rabbitmq-server ended while starting\n{self._log.read_text()}")
        try:
            with Connection(f"127.0.0.1:{self.port}", connect_timeout=2) as connection:
                connection.connect()
                return True
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def stop(self) -> None:
        _end(self._process)
        _end(self._epmd)


def leaks(client: redis.Redis, prefix: str = "steps") -> list[str]:
    """The keys of finished namespaces that would stay for ever."""
    pattern = re.compile(rf"{re.escape(prefix)}:(\{{\d+\}}):(?:journal|run|msg|inbox|log|held):(.*)", re.DOTALL)
    finished: dict[str, bool] = {}
    found = []
    for raw in client.scan_iter(match=f"{prefix}:{{*}}:*", count=1000):
        key = raw.decode() if isinstance(raw, bytes) else raw
        parts = pattern.fullmatch(key)
        if parts is None:
            continue
        run = f"{prefix}:{parts[1]}:run:{parts[2]}"
        if run not in finished:
            opened, owner = client.hmget(run, "open", "owner")
            finished[run] = opened in (None, b"0", "0") and not owner
        if finished[run] and client.ttl(key) == -1:
            found.append(key)
    return sorted(found)


def assert_no_leaks(client: redis.Redis, prefix: str = "steps", timeout: float = 10) -> None:
    """Fail if a key of a finished namespace has no time to live."""
    # A run settles a moment after its result can be read.
    wait_until(
        lambda: not leaks(client, prefix),
        timeout,
        lambda: f"every key of a finished namespace has a time to live: not {leaks(client, prefix)}",
    )
