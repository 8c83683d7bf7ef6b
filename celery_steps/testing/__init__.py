"""The testing kit, a pytest plugin: durable tasks in this process, at virtual time.

`steps` is its fixture, a `Steps`. Nothing of Celery is imported before something of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_steps.testing.crashes import Report
    from celery_steps.testing.handle import Handle
    from celery_steps.testing.replaying import replay
    from celery_steps.testing.steps import Steps, crash_everywhere

__all__ = ["Handle", "Report", "Steps", "crash_everywhere", "replay"]

#: Imported when they are asked for: pytest imports this plugin in every project of the environment.
_HOMES = {"Handle": "handle", "Report": "crashes", "Steps": "steps", "crash_everywhere": "steps", "replay": "replaying"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("celery-steps")
    group.addoption(
        "--steps-url",
        metavar="URL",
        help="the Redis, or what speaks like one, on which celery_steps.testing.store_contract runs (default: fakeredis)",
    )


@pytest.fixture
def steps() -> Iterator[Steps]:
    """Durable tasks, run in this process at virtual time."""
    from celery_steps.testing.steps import Steps

    with Steps() as kit:
        yield kit
