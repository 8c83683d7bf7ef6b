"""Many cases at once in one process: each is a generator that asks for forked processes and for time to pass."""

from __future__ import annotations

import gc
import heapq
import mmap
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from crash.points import Points

#: No process here has more to do than takes a moment.
_LONGEST = 60


class Spawn(NamedTuple):
    """A process to fork: `work` gets memory that is shared with it, and returns the exit code."""

    work: Callable[[Any], int]


class Exit(NamedTuple):
    """How it ended: points passed and the last one's name, exit code, signal (0: none)."""

    pid: int
    code: int
    signal: int
    passed: int
    last: str


#: Yields Spawn, and is sent its Exit; or seconds for which it has nothing to do.
Lane = Generator[Any, Any, None]


class Lanes:
    """At most `lanes` cases in progress, and `processes` forked at a time: those that only wait cost nothing."""

    def __init__(self, processes: int, lanes: int) -> None:
        self._processes = processes
        self._lanes = lanes
        self._running: dict[int, tuple[Lane, mmap.mmap]] = {}
        self._wanted: deque[tuple[Lane, Spawn]] = deque()
        self._waiting: list[tuple[float, int, Lane]] = []
        self._count = 0
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # it is waited for

    def drive(self, cases: Iterator[Lane]) -> None:
        """Drive all cases to their end."""
        gc.freeze()
        while True:
            while len(self._running) + len(self._wanted) + len(self._waiting) < self._lanes:
                lane = next(cases, None)
                if lane is None:
                    break
                self._advance(lane, None)
            while self._wanted and len(self._running) < self._processes:
                self._fork(*self._wanted.popleft())
            if not self._running and not self._waiting:
                return
            self._pause()
            self._reap()
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._advance(heapq.heappop(self._waiting)[2], None)

    def _advance(self, lane: Lane, answer: Exit | None) -> None:
        try:
            asked = lane.send(answer)
        except StopIteration:
            return
        if isinstance(asked, Spawn):
            self._wanted.append((lane, asked))
        else:
            self._count += 1  # lanes themselves cannot be compared
            heapq.heappush(self._waiting, (time.monotonic() + asked, self._count, lane))

    def _fork(self, lane: Lane, spawn: Spawn) -> None:
        memory = mmap.mmap(-1, Points.SIZE)
        pid = os.fork()
        if not pid:
            code = 99
            try:
                signal.alarm(_LONGEST)
                code = spawn.work(memory)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        self._running[pid] = (lane, memory)

    def _pause(self) -> None:
        until = self._waiting[0][0] - time.monotonic() if self._waiting else _LONGEST
        if until > 0:
            signal.sigtimedwait([signal.SIGCHLD], until)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            lane, memory = self._running.pop(pid)
            passed, last = Points.read(memory)
            memory.close()
            code = os.waitstatus_to_exitcode(status)
            self._advance(lane, Exit(pid, max(code, 0), max(-code, 0), passed, last))
