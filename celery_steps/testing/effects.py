"""What a body does to the world outside its steps, where Python's audit events tell of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_steps.engine.attempt import current, handling

_TELLING = (
    "http.client.connect", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.system", "shutil.copyfile",
    "shutil.move", "shutil.rmtree", "smtplib.connect", "socket.connect", "socket.sendmsg", "socket.sendto", "subprocess.Popen",
    "urllib.Request",
)  # fmt: skip
_WRITES = "wax+"

#: Where effects are noted, None: nobody wants to know.
_noted: list[str] | None = None
_hooked = False


@contextmanager
def noted() -> Iterator[list[str]]:
    """Notes, meanwhile, what bodies do outside their steps: what, and the line of the body."""
    global _hooked, _noted
    if not _hooked:  # a hook is never taken out again
        sys.addaudithook(_hear)
        _hooked = True
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _noted is None or not (event in _TELLING or (event == "open" and _is_written(*args[:2]))):
        return
    attempt = current.get()
    if attempt is None or not attempt.active or handling.get() is not None:
        return
    line = _line_of_body()
    if line is not None:
        _noted.append(f"{event}({args[0]!r:.80}) at {line}")


def _is_written(file: Any, mode: Any) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in _WRITES) and "__pycache__" not in str(file)


def _line_of_body() -> str | None:
    """The line of the body that is executed, None inside a verb of ours."""
    frame: Any = sys._getframe(2)
    inner: Any = None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in ("celery_steps.task", "celery_steps.worker.delivery"):
            return None if inner is None else f"{inner.f_code.co_filename}:{inner.f_lineno}"
        if name.startswith("celery_steps."):
            return None
        frame, inner = frame.f_back, frame
    return None
