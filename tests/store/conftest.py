"""The contract of the store, over fakeredis and over a real server."""

from __future__ import annotations

import pytest

from celery_steps.testing.store_contract.conftest import make_store as make_store
from celery_steps.testing.store_contract.conftest import store as store
from celery_steps.testing.store_contract.owner import APP as APP
from celery_steps.testing.store_contract.owner import Owner as Owner
from servers import RedisServer


@pytest.fixture(params=["fakeredis", "redis"])
def contract_url(request: pytest.FixtureRequest) -> str | None:
    """Where the server is, None: fakeredis."""
    if request.param == "fakeredis":
        return None
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url(1)
