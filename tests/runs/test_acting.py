"""Runs.stats, sweep and purge."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_steps import RunRefused, Runs, StepsError, StoreUnavailable
from celery_steps.store.keys import FINAL, RunId
from delivering import deliver, make_app
from runs.outside import every_key, listed, make_due, store_of
from servers import RedisServer, free_port


def test_stats_count_runs_and_tickets(app: Celery, runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(greet, id="fine")
    deliver(waiting, id="later")
    deliver(waiting, id="latest")
    stats = runs.stats()
    assert stats.runs == {
        "held": 0, "running": 0, "suspended": 0, "retrying": 2, "paused": 0, "in_doubt": 0, "rolling_back": 0,
        "succeeded": 1, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert (stats.unfinished, stats.tickets, stats.due, stats.late_seconds) == (2, 2, 0, 0)
    assert stats.memory_bytes
    assert stats.server


def test_stats_tell_how_late_the_oldest_ticket_is(app: Celery, runs: Runs, waiting: Any) -> None:
    deliver(waiting, id="later")
    make_due(app, "later", "shop.waiting", late=3600)
    stats = runs.stats()
    assert stats.due == 1
    assert 3590 < stats.late_seconds < 3700


def test_sweep_publishes_what_is_due(app: Celery, runs: Runs, waiting: Any) -> None:
    deliver(waiting, id="later")
    assert runs.sweep() == 0
    make_due(app, "later", "shop.waiting", late=1)
    assert runs.sweep() == 1
    assert runs.sweep() == 0
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=5)
        message.ack()
    assert message.headers["id"] == "later"


def test_a_purged_namespace_leaves_no_key(app: Celery, runs: Runs, greet: Any) -> None:
    deliver(greet, id="id-1", headers={"steps_namespace": "order-42"})
    assert runs.purge(namespace="order-42") == 1
    assert every_key(app) == set()
    with pytest.raises(RunRefused, match="There is no run"):
        runs.purge(namespace="order-42")


def test_a_namespace_keeps_its_journal_until_its_last_run_is_purged(app: Celery, runs: Runs, greet: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(greet, id=id, headers={"steps_namespace": "order-42"})
    assert runs.purge(namespace="id-1") == 1
    assert runs.get("order-42").id == "id-2"
    assert len(runs.records("order-42")) == 1
    assert runs.purge(namespace="order-42") == 1
    assert [key for key in every_key(app) if ":id:" not in key] == []


def test_an_unfinished_run_is_not_purged(runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(waiting, id="later")
    with pytest.raises(RunRefused, match=r"later \(shop\.waiting\) in namespace 'later' is retrying: only finished runs"):
        runs.purge(namespace="later")
    with pytest.raises(RunRefused, match="not those that are running"):
        runs.purge(status=["failed", "running"])
    assert runs.purge(older_than=0) == 0
    assert runs.purge(namespace="later", older_than=0) == 0
    assert listed(runs) == ["later"]


def test_purge_takes_what_is_older_and_of_that_status(app: Celery, runs: Runs, greet: Any) -> None:
    for id in ("a", "b", "c"):
        deliver(greet, id=id)
    deliver(greet, "ann", True, id="bad")
    assert runs.purge(older_than="1h") == 0
    assert runs.purge(status="failed") == 1
    assert listed(runs) == ["c", "b", "a"]
    assert runs.purge(status=[]) == 0
    assert runs.purge(older_than=timedelta(0)) == 3
    assert every_key(app) == set()


def test_purge_takes_more_runs_than_it_reads_at_once(app: Celery, runs: Runs) -> None:
    store = store_of(app)
    for n in range(2500):
        run, keys = RunId("t", f"run-{n}"), store.keys.namespace(f"run-{n}")
        store.client.exchange(
            ["ZADD", store.keys.status(keys.partition, FINAL[n % 3]), str(n), keys.member(str(run))],
            ["HSET", keys.run, f"{run}:status", FINAL[n % 3], f"{run}:changed", str(n)],
        )
    assert runs.purge(older_than=1) == 2500
    assert every_key(app) == set()


def test_purge_must_be_told_what(runs: Runs) -> None:
    with pytest.raises(StepsError, match="purge needs older_than, status or namespace"):
        runs.purge()


def test_a_late_claim_of_a_namespace_that_is_being_purged_keeps_it(app: Celery, runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(greet, id="id-1", headers={"steps_namespace": "order-42"})
    store = store_of(app)
    keys = store.keys.namespace("order-42")
    deliver(waiting, id="id-2", headers={"steps_namespace": "order-42"})
    assert store.client.run("drop", keys.all, keys.prefix, keys.encoded, "") == 0
    assert runs.purge(namespace="id-1") == 1
    assert runs.get("id-2").status == "retrying"


@pytest.mark.parametrize(
    "ask",
    [
        lambda runs: runs.list(),
        lambda runs: runs.get("x"),
        lambda runs: runs.records("x"),
        lambda runs: runs.stats(),
        lambda runs: runs.sweep(),
        lambda runs: runs.purge(older_than=0),
    ],
    ids=["list", "get", "records", "stats", "sweep", "purge"],
)
def test_an_unreachable_redis_is_an_error_that_says_so(redis_server: RedisServer, ask: Callable[[Runs], Any]) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match="Start it, or correct steps_backend"):
        ask(Runs(app))
