"""A shell completes commands, options, statuses, names of runs and keys of steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from click.shell_completion import ShellComplete

from celery_steps import DurableTask
from celery_steps.cli import complete, steps
from celery_steps.runs import Runs
from command_line import HOSTILE
from delivering import deliver, make_app
from servers import RedisServer, free_port, wait_until

ROOT = Path(__file__).parent.parent


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
    root = click.Group("celery", commands={"steps": steps}, params=[click.Option(["-A", "--app"], type=click.UNPROCESSED)])
    shell = ShellComplete(root, {"default_map": {"app": app}}, "celery", "_CELERY_COMPLETE")
    return [item.value for item in shell.get_completions(["steps", *words[:-1]], words[-1])]


def test_commands_options_and_statuses_are_completed(app: Celery) -> None:
    assert completed(app, "ta") == ["tail"]
    assert completed(app, "show", "--f") == ["--full"]
    assert completed(app, "list", "--status", "s") == ["suspended", "succeeded"]


def test_names_of_runs_are_completed_by_namespace_and_by_task_id(app: Celery) -> None:
    assert completed(app, "show", "order-4") == ["order-43", "order-42"]
    assert completed(app, "timeline", "id") == ["id-2", "id-1"]
    assert completed(app, "emit", "approved", "{}", "--to", "order-43") == ["order-43"]
    assert completed(app, "tail", "nobody") == []


def test_keys_of_the_run_that_was_named_are_completed(app: Celery) -> None:
    assert completed(app, "retry", "order-42", "--from-step", "") == ["load", "charge"]
    assert completed(app, "resolve", "order-42", "ch") == ["charge"]
    assert completed(app, "retry", "nobody", "--from-step", "") == []


@pytest.mark.parametrize("name", ["", "two words", "$(reboot)", "a;b", "a\x1bb", "it's", "a,b"])
def test_what_a_shell_would_not_take_for_one_word_is_not_offered(name: str) -> None:
    assert not complete._is_a_word(name)


def test_whatever_is_wrong_nothing_is_completed_and_nothing_said(
    redis_server: RedisServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = make_app(redis_server, steps_lease_ttl=0.1)
    away.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"
    assert completed(away, "show", "o") == []
    assert completed("no.such.module", "show", "o") == []
    assert capfd.readouterr() == ("", "")


def test_who_pressed_tab_does_not_wait_for_long(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(complete, "_PATIENCE", 0.05)
    monkeypatch.setattr(Runs, "list", lambda *_, **__: over.wait(60))
    assert completed(app, "show", "o") == []
    over.set()


def test_in_a_real_bash_celerys_own_completion_does_it(app: Celery, entry_points: str, tmp_path: Path) -> None:
    bash, celery = shutil.which("bash"), Path(sys.executable).with_name("celery")
    if bash is None or not celery.exists():
        assert "CI" not in os.environ
        pytest.skip("there is no bash, or no celery beside this Python")
    (tmp_path / "proj.py").write_text(
        f"from celery import Celery\napp = Celery('proj')\napp.conf.steps_backend = {app.conf.steps_backend!r}\n"
    )
    script = """
        eval "$(_CELERY_COMPLETE=bash_source celery)"
        COMP_WORDS=(celery -A proj steps show order-42) COMP_CWORD=5
        _celery_completion celery
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = os.pathsep.join((entry_points, str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{celery.parent}{os.pathsep}{os.environ['PATH']}"}

    def tab() -> str:
        done = subprocess.run([bash, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    assert wait_until(tab, timeout=60) == "order-42"  # on a busy machine the first look may take too long for a shell
