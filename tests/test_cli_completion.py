"""A shell completes commands, options, statuses, names of runs and keys of steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.shell_completion import ShellComplete

from celery_steps import DurableTask
from celery_steps.cli import complete, steps
from celery_steps.runs import Runs
from command_line import HOSTILE
from delivering import deliver, make_app
from servers import RedisServer, free_port


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.fulfil")
    def fulfil(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)
        self.step.run("two words", lambda: 2)
        self.step.run("charge", lambda: 3)

    deliver(fulfil, id="id-1", headers={"steps_namespace": "order-42"})
    deliver(fulfil, id="id-2", headers={"steps_namespace": "order-43"})
    deliver(fulfil, id=f"id {HOSTILE}", headers={"steps_namespace": f"order-{HOSTILE}"})
    return app


def completed(app: Any, *words: str) -> list[str]:
    """What a shell offers for the last of these words."""
    import click

    root = click.Group("celery", commands={"steps": steps}, params=[click.Option(["-A", "--app"], type=click.UNPROCESSED)])
    shell = ShellComplete(root, {"default_map": None}, "celery", "_CELERY_COMPLETE")
    monkey = {"celery": root}
    assert monkey
    return [item.value for item in shell.get_completions(["steps", *words[:-1]], words[-1])]


def test_commands_options_and_statuses_are_completed(app: Celery) -> None:
    assert completed(app, "ta") == ["tail"]
    assert completed(app, "show", "--f") == ["--full"]
    assert completed(app, "list", "--status", "s") == ["suspended", "succeeded"]
