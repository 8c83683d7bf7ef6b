"""The workers that are killed: real `celery worker` processes with a prefork pool, restarted at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from celery_steps.demo.processes import Process, undisturbed

WORKERS = 2
POOL = 2


@dataclass(frozen=True)
class Kill:
    """SIGKILL at a time (seconds since the epoch): to one pool process, or to a whole worker with its pool."""

    at: float
    pids: tuple[int, ...]
    whole_worker: bool
    by_person: bool = False


class Worker:
    """One `celery worker` that is started again whenever it is gone."""

    def __init__(self, number: int, queue: str, folder: Path, environment: dict[str, str]) -> None:
        name = f"{queue}-{number}"
        self._pool = folder / f"{name}-pool"
        self._log = folder / f"{name}.log"
        self._environment = {**environment, "STEPS_DEMO_PROCESSES": str(self._pool)}
        self._command = [
            *(sys.executable, "-m", "celery", "-A", "celery_steps.demo.shop", "worker", "-Q", queue, "-n", f"{name}@demo"),
            *("--pool", "prefork", "--concurrency", str(POOL), "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        self._killed: set[int] = set()
        self._seen: tuple[int, ...] = ()
        self._start()

    def _start(self) -> None:
        self._pool.mkdir(exist_ok=True)
        for file in self._pool.iterdir():
            file.unlink()
        self._seen = ()
        with undisturbed():
            self._process = Process(self._command, self._log, self._environment)

    def wait_until_ready(self) -> None:
        self._process.wait_until(lambda: len(self.pool()) == POOL, "The Celery worker")

    def pool(self) -> tuple[int, ...]:
        """The process ids of the pool that are alive; none until the worker is ready."""
        names = {file.name for file in self._pool.iterdir()}
        if "ready" not in names:
            return ()
        pids = sorted(map(int, names - {"ready"}))
        return tuple(pid for pid in pids if pid not in self._killed and _alive(pid))

    def kill_process(self, pid: int) -> Kill:
        self._killed.add(pid)
        self._seen = tuple(other for other in self._seen if other != pid)
        now = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return Kill(now, (pid,), whole_worker=False)

    def kill(self) -> Kill:
        """SIGKILL to the worker and its pool, as when a machine goes down; another is started at once."""
        pool, now = self.pool(), time.time()
        self._process.kill()
        self._start()
        return Kill(now, pool, whole_worker=True)

    def killed_by_others(self) -> list[Kill]:
        """What has been killed from outside since the last look."""
        if not self._process.alive:
            kill = Kill(time.time(), self._seen, whole_worker=True, by_person=True)
            self._process.kill()
            killed = self._process.was_killed
            self._start()
            return [kill] if killed else []
        pool = self.pool()
        gone = [pid for pid in self._seen if pid not in pool]
        self._seen = pool
        return [Kill(time.time(), (pid,), whole_worker=False, by_person=True) for pid in gone]

    def ask_to_end(self) -> None:
        if self._process.alive:
            self._process.ask_to_end()

    def end(self) -> None:
        self._process.end()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
