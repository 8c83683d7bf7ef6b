"""What tests do to a store behind the back of its runs."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery

from celery_steps import Runs
from celery_steps.engine import entries as fmt
from celery_steps.store.keys import RunId
from celery_steps.store.store import Store
from celery_steps.worker import runtime


def store_of(app: Celery) -> Store:
    return runtime.of(app).main_store


def listed(runs: Runs, **filters: Any) -> list[str]:
    return [run.id for run in runs.list(**filters).runs]


def crash(app: Celery, task: Any, id: str) -> None:
    """An attempt that claimed the namespace and was never heard of again."""
    run = RunId(task.name, id)
    token = "gone@there/77/1/1"
    binding = store_of(app).bind(id, run, token, app.main or "")
    claim, _ = binding.claim(
        f"nonce {time.time_ns()}", fmt.pack_call(token, str(run), task.name, None, 0), retries=0, message=b"never read"
    )
    assert claim.verdict == "OK"
    store_of(app).client.call("HSET", store_of(app).keys.namespace(id).run, "lease", "0")


def every_key(app: Celery) -> set[str]:
    found = {key.decode() for key in store_of(app).client.call("KEYS", "*")}
    return {key for key in found if not key.endswith(":meta")}


def make_due(app: Celery, id: str, task: str, late: float) -> None:
    store = store_of(app)
    keys = store.keys.namespace(id)
    due = store.keys.due(keys.partition, app.main or "")
    store.client.call("ZADD", due, "XX", str(int((time.time() - late) * 1000)), keys.member(str(RunId(task, id))))
