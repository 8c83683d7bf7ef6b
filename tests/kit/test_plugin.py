"""The plugin in a project of its own, and the contract of the store as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from celery import Celery
from celery.contrib.pytest import celery_app, celery_config, celery_enable_logging, celery_parameters, use_celery_app_trap

from celery_steps import DurableTask
from celery_steps.testing import Steps
from servers import RedisServer

__all__ = ["celery_app", "celery_config", "celery_enable_logging", "celery_parameters", "use_celery_app_trap"]

_HERE = Path(__file__).parents[2]


def run_pytest(folder: Path, *arguments: str) -> str:
    """A pytest of its own, with the plugin as an installed package has it. Returns what it says."""
    code = f"import sys, pytest; sys.exit(pytest.main({['-p', 'celery_steps.testing', '-p', 'no:cacheprovider', *arguments]!r}))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_HERE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return found.stdout + found.stderr


def test_a_project_that_uses_nothing_of_it_loads_nothing_and_one_test_gets_its_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_project.py").write_text(
        """
import sys
from hypothesis import given, strategies

LOADED = [name for name in sys.modules if name.split(".")[0] in ("celery", "kombu", "redis", "fakeredis")]


@given(strategies.integers())
def test_nothing_is_loaded(number):
    assert LOADED == []


def test_a_task(steps):
    from celery import Celery
    from celery_steps import DurableTask

    app = Celery("proj")

    @app.task(bind=True, base=DurableTask)
    def wait(self):
        self.step.sleep("a-year", "365d")
        return "done"

    assert steps.run(wait) == "done"
"""
    )
    said = run_pytest(tmp_path, "-q")
    assert "2 passed" in said, said


def test_the_contract_is_run_against_a_server_and_leaves_nothing_there(tmp_path: Path, redis_server: RedisServer) -> None:
    contract = "celery_steps.testing.store_contract.test_triggers"
    with redis_server.client(3) as client:
        client.set("of somebody else", 1)
        said = run_pytest(tmp_path, "-q", "--pyargs", contract, "--steps-url", redis_server.url(3))
        assert "passed" in said, said
        assert client.keys() == [b"of somebody else"]


def test_it_gets_on_with_the_fixtures_of_celerys_own_plugin(steps: Steps, celery_app: Celery) -> None:
    @celery_app.task(bind=True, base=DurableTask)
    def wait(self: DurableTask) -> str:
        self.step.sleep("a-year", "365d")
        return "done"

    assert steps.run(wait) == "done"
