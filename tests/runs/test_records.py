"""Runs.records: what stands, what does not stand any more, and what cannot be read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, Runs
from celery_steps.codec import pack
from delivering import deliver
from runs.outside import crash, store_of


def test_records_have_inputs_results_and_times(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("price", Decimal("1.50"), lambda price: {"total": price * 2, "tags": ("a", b"b")})
        self.step.run("price", Decimal("2"), lambda price: price)

    deliver(task, id="id-1")
    first, second = runs.records("id-1")
    assert (first.key, first.sequence, first.input) == ("price", 1, Decimal("1.50"))
    assert first.result == {"total": Decimal("3.00"), "tags": ("a", b"b")}
    assert (second.sequence, second.result, second.status, second.attempt) == (2, Decimal("2"), "done", 1)
    assert first.deterministic_inputs_hash.startswith("v1:sha256:")
    assert first.event_id < second.event_id
    assert first.namespace == first.run_id == "id-1"
    assert runs.get("id-1").created_at <= first.occurred_at <= datetime.now(timezone.utc) + timedelta(seconds=1)


@pytest.fixture
def stormy(app: Celery) -> Any:
    """Its first attempt has a caught failure, and one that leaves the body by way of another."""

    @app.task(bind=True, base=DurableTask, autoretry_for=(RuntimeError,), default_retry_delay=0, name="shop.stormy")
    def stormy(self: DurableTask) -> None:
        def fail(number: int) -> None:
            if self.request.retries == 0:
                raise OSError(number, "storm")

        try:
            self.step.run("sail", 1, fail)
        except OSError as storm:
            self.step.run("note", lambda: "stormy")
            raise RuntimeError("gave up") from storm
        self.step.run("land", 2, lambda number: None)

    return stormy


def test_records_that_do_not_stand_any_more_are_shown_on_request(runs: Runs, stormy: Any) -> None:
    deliver(stormy, id="id-1")
    deliver(stormy, id="id-1", retries=1)
    assert [(r.key, r.status, r.attempt) for r in runs.records("id-1")] == [
        ("note", "done", 1),
        ("sail", "done", 2),
        ("land", "done", 2),
    ]
    everything = runs.records("id-1", attempts=True)
    assert [(r.key, r.status) for r in everything] == [
        ("sail", "reopened"),
        ("note", "done"),
        ("sail", "done"),
        ("land", "done"),
    ]
    assert isinstance(everything[0].error, OSError)
    assert everything[0].error.errno == 1


def test_steps_without_an_outcome_are_shown_on_request(app: Celery, runs: Runs) -> None:
    seen = []

    @app.task(bind=True, base=DurableTask, autoretry_for=(OSError,), default_retry_delay=0)
    def task(self: DurableTask) -> None:
        def fail() -> None:
            seen.extend(runs.records("id-1", attempts=True))
            raise OSError("storm")

        self.step.run("sail", fail)

    crash(app, task, "id-1")
    deliver(task, id="id-1", redelivered=True)
    assert [(record.key, record.status) for record in seen] == [("sail", "begun")]
    assert [(r.key, r.status) for r in runs.records("id-1", attempts=True)] == [("sail", "raised")]
    assert runs.records("id-1") == []


def test_what_was_before_a_replace_stays_visible_on_request(app: Celery, runs: Runs) -> None:
    app.conf.result_backend = None  # Celery's AsyncResult of the new task would open a connection while it is collected

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        self.replace(task.si())

    deliver(task, id="id-1")
    assert runs.records("id-1") == []
    assert [(record.key, record.status) for record in runs.records("id-1", attempts=True)] == [("one", "replaced")]
    assert runs.get("id-1").history[0].ended == "replaced"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1damaged",
        pack([99, "k", 1]),
        pack([1, "k"]),
        pack([1, ["k"], 1, None, True, b"", None, 0, 0]),
        pack([1, "k", "1", None, True, b"", None, 0, 0]),
        pack([1, "k", 1, None, True, b"\x01\xc1", None, 0, 0]),
        pack([1, "k", 1, None, False, b"\x01\x01", None, 0, 0]),
    ],
)
def test_a_corrupt_record_does_not_hide_the_others(app: Celery, runs: Runs, greet: Any, data: bytes) -> None:
    deliver(greet, id="id-1")
    store_of(app).client.call("XADD", store_of(app).keys.namespace("id-1").journal, "*", "step", data)
    fine, corrupt = runs.records("id-1")
    assert (fine.result, fine.corrupt) == ("hello, ann", "")
    assert corrupt.corrupt
    assert runs.get("id-1").status == "succeeded"


def test_entries_of_kinds_that_nobody_knows_are_passed_over(app: Celery, runs: Runs, greet: Any) -> None:
    deliver(greet, id="id-1")
    store_of(app).client.call("XADD", store_of(app).keys.namespace("id-1").journal, "*", b"\xff", b"\x00")
    assert len(runs.records("id-1", attempts=True)) == 1
