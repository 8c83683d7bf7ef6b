"""Runs.tail: what happens, as it happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, RunRefused, Runs, StepsError
from celery_steps import tail as following
from celery_steps.errors import StoreUnavailable
from celery_steps.past import Line, Record, Run
from celery_steps.store.index import Index
from delivering import deliver
from runs.outside import crash, listed
from servers import wait_until

TICKET = {"headers": {"steps_ticket": True}}


def told(item: Run | Record | Line) -> str:
    if isinstance(item, Run):
        return item.status
    return f"{item.key} {item.status}" if isinstance(item, Record) else f"said {item.message}"


class Reader:
    """Somebody who follows, in a thread."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.error: BaseException | None = None
        self._items = items
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for item in self._items:
                self.seen.append(item)
        except _Enough:
            pass
        except BaseException as error:
            self.error = error

    @property
    def told(self) -> list[str]:
        return [told(item) for item in self.seen]

    def waits_for(self, what: Callable[[], bool]) -> None:
        wait_until(lambda: what() or self.error is not None)
        assert self.error is None

    def ends(self) -> list[str]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.error is None
        return self.told


class _Enough(Exception):
    pass


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Ends those who follow for ever, at their next pause."""
    over = threading.Event()

    def sleep(_: float) -> None:
        if over.wait(0.005):
            raise _Enough

    monkeypatch.setattr(following, "sleep", sleep)
    yield over.set
    over.set()


@pytest.fixture
def order(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.order", namespace="order-{number}")
    def order(self: DurableTask, number: int) -> str:
        self.step.run("load", lambda: self.step.log.info("loading"))
        self.step.wait_for_event("approved")
        return str(self.step.run("ship", lambda: "shipped"))

    return order


def test_a_run_is_followed_until_it_is_finished(runs: Runs, order: Any, pace: Any) -> None:
    deliver(order, 42, id="id-1")
    reader = Reader(runs.tail("order-42"))
    reader.waits_for(lambda: "suspended" in reader.told)
    runs.emit("approved", True, to="order-42")
    deliver(order, 42, id="id-1", **TICKET)
    seen = reader.ends()
    assert set(seen[:3]) == {"said loading", "load done", "approved waiting"}
    assert seen.index("suspended") < seen.index("approved done") < seen.index("ship done") < seen.index("succeeded")
    assert seen[-1] == "succeeded"
    assert len([one for one in seen if "suspended" not in one and "running" not in one]) == 6  # each of them once


def test_a_run_that_is_finished_is_told_and_that_is_all(runs: Runs, greet: Any, pace: Any) -> None:
    deliver(greet, id="id-1")
    assert [told(item) for item in runs.tail("id-1")] == ["say done", "succeeded"]
    assert [told(item) for item in runs.tail("id-1", last=1)] == ["succeeded"]
    assert list(runs.tail("id-1", last=0)) == []


def test_a_task_id_means_one_run_of_its_namespace_and_the_namespace_all(runs: Runs, greet: Any, pace: Any) -> None:
    for id, name in (("id-1", "ann"), ("id-2", "ann")):
        deliver(greet, name, id=id, headers={"steps_namespace": "shared"})
    assert [(told(item), getattr(item, "id", "")) for item in runs.tail("id-2")] == [("succeeded", "id-2")]
    assert [told(item) for item in runs.tail("shared")] == ["say done", "succeeded", "succeeded"]


def test_a_run_that_comes_into_the_namespace_is_met(app: Celery, runs: Runs, order: Any, greet: Any, pace: Any) -> None:
    deliver(order, 42, id="id-1")
    reader = Reader(runs.tail("order-42"))
    reader.waits_for(lambda: "suspended" in reader.told)
    deliver(greet, id="id-2", headers={"steps_namespace": "order-42"})
    reader.waits_for(lambda: "succeeded" in reader.told)
    assert {item.id for item in reader.seen if isinstance(item, Run)} == {"id-1", "id-2"}
    runs.cancel("id-1")
    deliver(order, 42, id="id-1", **TICKET)
    assert reader.ends()[-1] == "cancelled"


def test_everything_is_followed_for_ever(app: Celery, runs: Runs, order: Any, greet: Any, pace: Any) -> None:
    deliver(greet, id="id-1")
    reader = Reader(runs.tail())
    reader.waits_for(lambda: len(reader.seen) == 1)
    for number in range(250):  # more than a page of one key
        deliver(greet, id=f"more-{number}")
    deliver(order, 42, id="id-2")
    reader.waits_for(lambda: "suspended" in reader.told)
    ids = [item.id for item in reader.seen if item.status != "running"]
    assert sorted(ids) == sorted(listed(runs, limit=1000))
    pace()
    reader.ends()


def test_nothing_is_met_twice_where_nothing_changes(runs: Runs, greet: Any, pace: Any) -> None:
    for id in ("id-1", "id-2", "id-3"):
        deliver(greet, id=id)
    looks = []
    reader = Reader(runs.tail(last=2))
    changes = Index.changes
    Index.changes = lambda index, since: (looks.append(since), changes(index, since))[1]  # type: ignore[method-assign]
    try:
        reader.waits_for(lambda: len(looks) > 3)
    finally:
        Index.changes = changes  # type: ignore[method-assign]
    pace()
    reader.ends()
    assert [item.id for item in reader.seen] == ["id-2", "id-3"]


def test_a_redis_that_is_away_for_a_while_ends_nothing_and_loses_nothing(
    runs: Runs, order: Any, pace: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(order, 42, id="id-1")
    reader = Reader(runs.tail("order-42"))
    reader.waits_for(lambda: "suspended" in reader.told)
    runs.emit("approved", True, to="order-42")
    away = [StoreUnavailable("Redis at there cannot be reached.")] * 5
    lines = Index.lines_after

    def absent(*arguments: Any) -> Any:  # the last of a look's questions: the others were answered
        if away:
            raise away.pop()
        return lines(*arguments)

    monkeypatch.setattr(Index, "lines_after", absent)
    with caplog.at_level(logging.WARNING, "celery_steps"):
        deliver(order, 42, id="id-1", **TICKET)
        seen = reader.ends()
    assert seen[-3:] == ["approved done", "ship done", "succeeded"]
    warned = [record.message for record in caplog.records if "Waiting until it is back" in record.message]
    assert warned
    assert not away


def test_a_run_that_is_purged_meanwhile_is_the_end(runs: Runs, app: Celery, greet: Any, pace: Any) -> None:
    crash(app, greet, "id-1")
    reader = Reader(runs.tail("id-1"))
    reader.waits_for(lambda: "running" in reader.told)
    deliver(greet, id="id-1", redelivered=True)
    runs.purge(namespace="id-1")
    assert reader.ends()[0] == "running"


def test_what_makes_no_sense_is_refused_at_once(runs: Runs) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nobody'"):
        runs.tail("nobody")
    with pytest.raises(StepsError, match="last must be from 0"):
        runs.tail(last=-1)
    with pytest.raises(StepsError, match="interval must be seconds"):
        runs.tail(interval=0)
