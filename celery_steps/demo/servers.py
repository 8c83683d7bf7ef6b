"""A private Redis for the demo: redis-server or valkey-server where there is one, else fakeredis over TCP."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from celery_steps.demo.processes import DemoFailed, Process, free_port, start_server


@dataclass(frozen=True)
class Redis:
    """A running Redis, or what stands in for it; `name` says which, `url` is without database."""

    process: Process
    name: str
    url: str


def start_redis(folder: Path, *, fake: bool) -> Redis:
    """Start a private Redis with its data in `folder`. `fake`: fakeredis, even if there is a real one.

    DemoFailed if there is neither.
    """
    binary = None if fake else shutil.which("redis-server") or shutil.which("valkey-server")
    return _real(binary, folder) if binary else _fake(folder)


def _real(binary: str, folder: Path) -> Redis:
    port = free_port()
    command = [
        *(binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"),
    ]
    process = Process(command, folder / "redis.log")
    try:
        process.wait_until(lambda: _answers(port), Path(binary).name)
    except BaseException:
        process.end()
        raise
    return Redis(process, f"{Path(binary).name} {_version(binary)}", f"redis://127.0.0.1:{port}")


def _fake(folder: Path) -> Redis:
    missing = [name for name in ("fakeredis", "lupa") if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoFailed(
            f"The demo needs a Redis. There is no redis-server or valkey-server on PATH, and {' and '.join(missing)}, "
            'which would stand in for it, is not installed: pip install "celery-steps[demo]"'
        )
    process, port = start_server("fake_redis", (), folder / "redis.log", "fakeredis")
    return Redis(process, "fakeredis (no Redis server found or wanted)", f"redis://127.0.0.1:{port}")


def _version(binary: str) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return next((word[2:] for word in said.split() if word.startswith("v=")), "")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
