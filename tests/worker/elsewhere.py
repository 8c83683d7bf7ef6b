"""A Celery app of somebody else, in whose workers nobody tells a parent of its child's end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from celery import Celery

_stage = json.loads(os.environ["STAGE"])
app = Celery("elsewhere")
app.conf.update({name: value for name, value in _stage["settings"].items() if not name.startswith("steps_")})
app.conf.task_default_queue = "elsewhere"


@app.task
def add(mark: str, number: int) -> int:
    with (Path(_stage["folder"]) / "ledger").open("a") as ledger:
        ledger.write(f"{mark} elsewhere {os.getpid()}\n")
    return number + 1
