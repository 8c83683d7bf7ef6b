"""`python manage.py steps ...`: the same commands as `celery -A proj steps ...`, over the project's Celery app."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery, current_app
from django.core.management.base import BaseCommand, CommandError, CommandParser

from celery_steps.cli import steps

_NO_APP = """\
This Django project has no Celery app. Make one, project/celery.py:

    import os
    from celery import Celery

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    app = Celery("project")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.autodiscover_tasks()

and import it where Django always comes by, in project/__init__.py:

    from project.celery import app as celery_app"""


class Command(BaseCommand):
    """Hands its arguments to our commands, and takes Django's own options from among them."""

    help = "Look at durable runs, and act on them: list, show, timeline, tail and more; --help names them all."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        # --settings and --pythonpath have had their effect already.
        known, arguments = self._djangos_options().parse_known_args(argv[2:])
        self._program = f"{Path(argv[0]).name} {argv[1]}"
        try:
            self.handle(arguments=arguments, **vars(known))
        except CommandError as error:
            if known.traceback:
                raise
            if str(error):
                print(error, file=sys.stderr)
            sys.exit(error.returncode)

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command("steps", "list", "--json")`."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, arguments: list[str], no_color: bool = False, force_color: bool = False, **options: Any) -> None:
        """CommandError with an empty text: what is wrong has been printed."""
        context = SimpleNamespace(app=_app(), no_color=no_color, force_color=force_color)
        out, err = options.get("stdout") or sys.stdout, options.get("stderr") or sys.stderr
        try:
            with redirect_stdout(out), redirect_stderr(err):
                steps.main(arguments, prog_name=getattr(self, "_program", "steps"), obj=context)
        except SystemExit as exit:
            if exit.code:
                raise CommandError("", returncode=int(exit.code)) from None

    def _djangos_options(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--settings")
        parser.add_argument("--pythonpath")
        for flag in ("--no-color", "--force-color", "--traceback", "--skip-checks"):
            parser.add_argument(flag, action="store_true")
        return parser


def _app() -> Celery:
    """The app that Celery takes for the current one; without one it would make one up, which knows no settings."""
    app = current_app._get_current_object()
    if app.main == "default":
        raise CommandError(_NO_APP, returncode=1)
    return app
