"""The processes of a worker that execute: how the tokens of their attempts begin, which one has a task, and its end."""

from __future__ import annotations

import itertools
import os
import signal as signals
import time
from typing import Any

from billiard.common import TERM_SIGNAME
from billiard.pool import ApplyResult
from celery.platforms import signals as by_name
from celery.worker.request import Request

#: Seconds for which a child may run its `finally` blocks after a signal, before it gets SIGKILL.
_GRACE = 0.5

_started_at = time.time_ns()
_serial = itertools.count(1)


def token(hostname: str) -> str:
    """The token of a new attempt in this process."""
    # Its last character keeps it from being the beginning of another one: scripts know an owner by how its token begins.
    return f"{token_prefix(hostname, os.getpid())}{_started_at}/{next(_serial)}."


def token_prefix(hostname: str, pid: int) -> str:
    """How the tokens of a process begin: the main process finds a dead child's runs by it."""
    return f"{hostname}/{pid}/"


def child_of(request: Request) -> int | None:
    """The process id of the pool's child that has this task, None where tasks run in this process."""
    result = request._apply_result() if request._apply_result is not None else None
    return request.worker_pid if isinstance(result, ApplyResult) else None


def end(request: Request, pool: Any, signal: Any) -> int:
    """End the child or the greenlet with this signal, and make sure that it is dead. Returns the signal's number."""
    number: int = by_name.signum(signal or TERM_SIGNAME)
    child = child_of(request)
    pool.terminate_job(request.worker_pid, number)
    result = request._apply_result() if request._apply_result is not None else None
    if result is not None:
        result.terminate(number)
    if child is not None and not _is_dead(child, _GRACE):
        kill(child)
    return number


def kill(child: int) -> None:
    """End a child at once, if it has not ended."""
    if not _is_dead(child, 0):
        os.kill(child, signals.SIGKILL)
        _is_dead(child, _GRACE)


def _is_dead(child: int, within: float) -> bool:
    """Whether a child has ended; its exit status is left to the pool."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: it is not known
        return False
    end = time.monotonic() + within
    while True:
        try:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
