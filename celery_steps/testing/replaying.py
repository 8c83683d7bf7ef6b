"""An exported run against the code as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import current_app

from celery_steps.errors import StepsError
from celery_steps.export import entries_of, message_of
from celery_steps.runs import Check
from celery_steps.store.keys import RunId
from celery_steps.worker.check import rehearse


def replay(run: Mapping[str, Any] | str | Path, task: Any = None) -> Check:
    """Replay a run that `Runs.export` or `steps export` wrote: no handler is called, nothing is written, Redis is not asked.

    Args:
        run: the document, or the path of its file.
        task: the task of today. Default: the one of the run's name, in the current app.

    Returns a Check: `ok`, or how it `diverges`, which recorded steps are `unmet`, what would newly run `next`. Of a run that is
    over its end is compared too. StepsError for what is no exported run.
    """
    document = _read(run)
    entries, message = entries_of(document), message_of(document)
    app = current_app if task is None else task.app
    app.loader.import_default_modules()
    return rehearse(app, *_place(document), message, lambda: entries, task)


def _place(document: Mapping[str, Any]) -> tuple[str, RunId, str]:
    try:
        run = document["run"]
        return run["namespace"], RunId.parse(run["ref"]), run["status"]
    except (KeyError, TypeError, ValueError) as error:
        raise StepsError(f"This is no exported run: {error!r} is missing or wrong.") from error


def _read(run: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    if isinstance(run, Mapping):
        return run
    try:
        found = json.loads(Path(run).read_text())
    except OSError as error:
        raise StepsError(f"{run} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise StepsError(f"{run} is no JSON: {error}. Make one with `celery -A proj steps export NAME`.") from error
    if not isinstance(found, dict):
        raise StepsError(f"{run} is no exported run: make one with `celery -A proj steps export NAME`.")
    return found
