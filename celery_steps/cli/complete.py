"""What a shell may complete: names of runs and keys of steps. Whatever is wrong, it completes nothing and says nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import click

#: Seconds that somebody who pressed TAB waits for Redis.
_PATIENCE = 2.0
#: Runs that changed last, among which names are looked for.
_RECENT = 500


def names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Namespaces and task ids of runs that changed lately."""
    return _among(
        lambda runs: (name for run in runs.list(limit=_RECENT).runs for name in (run.namespace, run.id)), context, incomplete
    )


def keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Keys that are recorded in the run which was named before."""
    # An option that waits for its value: click has not come to the arguments.
    name = context.params.get("name") or next(iter(context.args), None)
    return _among(lambda runs: (record.key for record in runs.records(name)), context, incomplete) if name else []


def _among(ask: Callable[[Any], Iterable[str]], context: click.Context, incomplete: str) -> list[str]:
    try:
        from celery_steps.runs import Runs

        runs = Runs(_app(context))
    except BaseException:  # nobody could read an error in the middle of a command line
        return []
    found: list[str] = []

    def look() -> None:
        with suppress(BaseException):
            found.extend(dict.fromkeys(name for name in ask(runs) if name.startswith(incomplete) and _is_a_word(name)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return [] if thread.is_alive() else found


def _app(context: click.Context) -> Any:
    from celery.app import app_or_default
    from celery.app.utils import find_app

    named = context.find_root().params.get("app")
    return find_app(named) if isinstance(named, str) else app_or_default(named)


def _is_a_word(name: str) -> bool:
    """Whether a shell takes it as one word without quotes."""
    return bool(name) and name.isprintable() and not set(name) & set(" \t\"'`\\$&|;<>()[]{}*?!#~,")
