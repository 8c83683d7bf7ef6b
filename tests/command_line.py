"""Commands of `celery steps` in this process, and text that a terminal must not get as it is."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from celery import Celery
from click.testing import CliRunner, Result

from celery_steps.cli import steps

HOSTILE = "\x1b[31mred\x1b[0m \x9b2J [bold]loud[/bold] :bomb: \u202egnp.exe \u200b \r\n\t\x7f \u2028 end"
#: Celery takes no such task id, and we record no such value.
LONE = "\ud800"


def run(app: Celery, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(steps, list(arguments), obj=SimpleNamespace(app=app, no_color=False), env=environment)


def answer(app: Celery, *arguments: str, code: int = 0) -> Any:
    """What a command says with --json: one document, whatever happens."""
    result = run(app, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def in_a_terminal(app: Celery, columns: int, *arguments: str) -> str:
    result = run(app, *arguments, FORCE_COLOR="1", COLUMNS=str(columns), TERM="xterm-256color")
    assert result.exit_code == 0, result.output
    return result.output


def hidden(text: str) -> set[str]:
    """Characters that a terminal does not show."""
    return {c for c in text if c != "\n" and not c.isprintable()}
