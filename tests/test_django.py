"""A real Django project: `manage.py test` with its test database, and `manage.py steps`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_steps import DurableTask
from delivering import deliver, make_app
from servers import RedisServer

TESTS = Path(__file__).parent
PROJECT = TESTS / "django_project"
#: Celery and kombu call what redis-py has deprecated.
_CELERYS = ("-W", "ignore:Call to:DeprecationWarning")


class Project:
    """The project of tests/django_project, with databases of its own."""

    def __init__(self, server: RedisServer) -> None:
        self.app = make_app(server)
        conf = self.app.conf
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CELERY_"))},
            "BROKER": conf.broker_url,
            "RESULTS": conf.result_backend,
            "STORE": conf.steps_backend,
            "PYTHONPATH": os.pathsep.join((str(PROJECT), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))),
        }

    def manage(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "error", *_CELERYS, str(PROJECT / "manage.py"), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=PROJECT,
            env={**self._environment, **environment},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def project(redis_server: RedisServer) -> Project:
    return Project(redis_server)


def test_the_projects_own_tests_pass(project: Project) -> None:
    done = project.manage("test", "shop")
    assert "Ran 7 tests" in done.stderr
    assert "\nOK\n" in done.stderr


def test_the_command_looks_at_the_projects_runs(project: Project) -> None:
    @project.app.task(bind=True, base=DurableTask, name="shop.tasks.fulfil")
    def fulfil(self: DurableTask) -> int:
        return int(self.step.run("load", lambda: 1))

    deliver(fulfil, id="id-1", headers={"steps_namespace": "order-42"})
    done = project.manage("steps", "list", "--json", "--settings", "project.settings", "--no-color")
    assert [run["namespace"] for run in json.loads(done.stdout)["runs"]] == ["order-42"]


def test_what_is_refused_or_wrong_usage_has_the_same_exit_codes(project: Project) -> None:
    done = project.manage("steps", "show", "nobody", code=1)
    assert "There is no run 'nobody'" in done.stderr
    assert "Traceback" not in done.stderr
    done = project.manage("steps", "shwo", code=2)
    assert "Usage: manage.py steps" in done.stderr


def test_without_a_celery_app_the_error_says_how_to_make_one(project: Project) -> None:
    done = project.manage("steps", "list", code=1, WITHOUT_CELERY="1")
    assert 'app.config_from_object("django.conf:settings", namespace="CELERY")' in done.stderr
    assert "Traceback" not in done.stderr
