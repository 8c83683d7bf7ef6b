"""The contract that any server must keep, which the testing kit has for everybody."""

from __future__ import annotations

from celery_steps.testing.store_contract import test_inbox, test_ownership, test_telling, test_tickets, test_triggers
from celery_steps.testing.store_contract.test_inbox import *  # noqa: F403
from celery_steps.testing.store_contract.test_ownership import *  # noqa: F403
from celery_steps.testing.store_contract.test_telling import *  # noqa: F403
from celery_steps.testing.store_contract.test_tickets import *  # noqa: F403
from celery_steps.testing.store_contract.test_triggers import *  # noqa: F403

_PARTS = (test_inbox, test_ownership, test_telling, test_tickets, test_triggers)


def test_no_test_of_the_contract_hides_another() -> None:
    names = [name for part in _PARTS for name in vars(part) if name.startswith("test_")]
    assert len(names) == len(set(names)) > 50
    assert all(globals()[name] is getattr(part, name) for part in _PARTS for name in vars(part) if name.startswith("test_"))
