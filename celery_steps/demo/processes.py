"""Processes that the demo starts: each in a process group of its own, so that Ctrl-C reaches only the demo, which ends them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socketserver import TCPServer

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PORT = re.compile(r"^port (\d+)$", re.MULTILINE)


class DemoFailed(Exception):
    """The demo cannot go on; the message says why and what to do."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put Ctrl-C and the like off until the block is done, so that no process is forgotten between start and end."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def leave_in_order() -> None:
    """Make SIGTERM and a closed terminal end this process as Ctrl-C does: what is to be ended first, is."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))


class Process:
    """A process and its children.

    Args:
        command: as for subprocess.
        log: file for what it says.
        environment: variables added to the demo's own.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,  # the demo's own servers end when it is closed, however the demo ends
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL, and not by itself."""
        return self._process.poll() == -signal.SIGKILL

    def said(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to the process and all its children at once, as when a machine goes down."""
        self.kill_family()
        self._process.wait()

    def ask_to_end(self) -> None:
        """SIGTERM to the process alone: it ends its children."""
        self._process.terminate()

    def end(self, patience: float = 5.0) -> None:
        """End it, by force after `patience` seconds."""
        if self.alive:
            self.ask_to_end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill_family(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter for zombies
            os.killpg(self.pid, signal.SIGKILL)

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Wait until it is ready; DemoFailed if it ends first, or after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not ready():
            if not self.alive or time.monotonic() > end:
                raise DemoFailed(f"{what} does not start. It said:\n{self.said()[-3000:]}")
            time.sleep(0.05)


def start_server(module: str, arguments: Sequence[str], log: Path, what: str) -> tuple[Process, int]:
    """Start one of the demo's own servers. Returns it and its port."""
    process = Process([sys.executable, "-m", f"celery_steps.demo.{module}", *arguments], log)
    try:
        process.wait_until(lambda: bool(_PORT.search(process.said())), what)
    except BaseException:
        process.end()
        raise
    said = _PORT.findall(process.said())
    return process, int(said[0])


def serve_until_stdin_ends(server: TCPServer) -> None:
    """Say the port and serve; end with the process that started this one, however that ended."""

    def follow() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    print("port", server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
