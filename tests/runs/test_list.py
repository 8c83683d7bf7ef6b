"""Runs.list: filters, pages, and what is no argument."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, RunRefused, Runs, StepsError
from celery_steps.runs import Page
from celery_steps.store.index import Row
from celery_steps.store.keys import RunId
from delivering import deliver
from runs.outside import crash, listed, store_of
from servers import wait_until


def test_a_list_has_the_newest_change_first(runs: Runs, greet: Any) -> None:
    for id in ("one", "two", "three"):
        deliver(greet, id=id)
    page = runs.list()
    assert [run.id for run in page.runs] == ["three", "two", "one"]
    assert page.cursor is None
    run = page.runs[0]
    assert (run.namespace, run.task, run.status, run.attempts) == ("three", "shop.greet", "succeeded", 1)
    assert run.created_at <= run.changed_at <= datetime.now(timezone.utc) + timedelta(seconds=1)
    assert run.created_at.tzinfo is timezone.utc


def test_a_list_is_filtered_by_status_and_task(runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(greet, id="fine")
    deliver(greet, "bob", True, id="bad")
    deliver(waiting, id="later")
    assert listed(runs, status="failed") == ["bad"]
    assert listed(runs, status=["succeeded", "retrying"]) == ["later", "fine"]
    assert listed(runs, task="shop.waiting") == ["later"]
    assert listed(runs, task="shop.greet", status="succeeded") == ["fine"]
    assert listed(runs, task="shop") == []
    assert listed(runs, status=[]) == []


def test_a_list_is_filtered_by_time(runs: Runs, greet: Any) -> None:
    deliver(greet, id="old")
    between = runs.get("old").changed_at + timedelta(milliseconds=1)
    wait_until(lambda: datetime.now(timezone.utc) > between + timedelta(milliseconds=1))
    deliver(greet, id="new")
    assert listed(runs, since=between) == ["new"]
    assert listed(runs, until=between.isoformat()) == ["old"]
    assert listed(runs, since="1h") == ["new", "old"]
    assert listed(runs, until="1h") == []


def test_a_failed_run_is_listed_with_its_error(runs: Runs, greet: Any) -> None:
    deliver(greet, "ann", True, id="bad")
    (run,) = runs.list().runs
    assert isinstance(run.error, ValueError)
    assert str(run.error) == "no card"


def test_a_waiting_run_is_listed_with_its_wake_time(runs: Runs, waiting: Any) -> None:
    deliver(waiting, id="later")
    (run,) = runs.list().runs
    assert (run.status, run.retries) == ("retrying", 1)
    assert run.wake_at is not None
    assert run.wake_at - run.changed_at == timedelta(seconds=600)


def test_pages_meet_every_run_once_while_runs_change(runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(waiting, 0, id="later")
    for n in range(6):
        deliver(greet, id=f"run-{n}")
    first = runs.list(limit=3)
    deliver(waiting, 0, id="later", retries=1)  # from the last page to the newest
    second = runs.list(limit=3, cursor=first.cursor)
    assert [run.id for run in (*first.runs, *second.runs)] == [f"run-{n}" for n in reversed(range(6))]
    assert second.cursor is None
    assert listed(runs)[0] == "later"


def test_pages_meet_every_run_once_where_many_changed_in_one_millisecond(app: Celery, runs: Runs) -> None:
    store = store_of(app)
    ids = [f"run-{n:04d}" for n in range(900)]
    for id in ids:
        keys, run = store.keys.namespace(id), RunId("t", id)
        status = store.keys.status(0, "succeeded")  # one index, so that its pages are cut inside the millisecond
        store.client.exchange(["ZADD", status, "1000", keys.member(str(run))], ["HSET", keys.run, f"{run}:status", "succeeded"])
    met: list[str] = []
    cursor = None
    while True:
        page = runs.list(limit=70, cursor=cursor)
        met += [run.id for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            break
    assert met == sorted(ids, reverse=True)


def test_a_run_whose_keys_have_expired_is_not_listed(app: Celery, runs: Runs, greet: Any) -> None:
    deliver(greet, id="kept")
    deliver(greet, id="expired")
    store_of(app).client.call("DEL", *store_of(app).keys.namespace("expired").all)
    assert listed(runs) == ["kept"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"status": "done"}, "no status 'done'.*running"),
        ({"since": datetime(2026, 1, 1)}, "since has no time zone"),
        ({"until": "2026-01-01T00:00:00"}, "until has no time zone"),
        ({"until": "yesterday"}, "until must be an aware datetime"),
        ({"limit": 0}, "limit must be from 1 to 10,000"),
        ({"look_at": 0}, "look_at must be at least 1"),
        ({"cursor": "!"}, "is no cursor"),
        ({"cursor": "bm8gcm93"}, "is no cursor"),
    ],
)
def test_a_list_refuses_what_it_cannot_mean(runs: Runs, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(StepsError, match=message):
        runs.list(**filters)


def test_a_row_knows_its_task_by_its_whole_name() -> None:
    row = Row(1, b"ns shop.greet%2Fx/id/0")
    assert row.is_of("shop.greet/x")
    assert not row.is_of("shop.greet")


def test_a_list_is_searched_by_a_part_of_a_namespace_a_task_id_or_a_task(runs: Runs, greet: Any, waiting: Any) -> None:
    deliver(greet, id="one", headers={"steps_namespace": "Größe 4/2"})
    deliver(waiting, id="two")
    assert listed(runs, text="größe 4/") == ["one"]
    assert listed(runs, text="WAIT") == ["two"]
    assert listed(runs, text="tw") == ["two"]
    assert listed(runs, text="shop.", status="succeeded") == ["one"]
    assert listed(runs, text="") == ["two", "one"]
    assert listed(runs, text="%") == listed(runs, text="ing/two") == []  # as they are stored, but as nobody named them


def test_a_search_in_few_runs_leads_on_from_where_it_gave_up(runs: Runs, greet: Any) -> None:
    for n in range(5):
        deliver(greet, id=f"run-{n}")
    first = runs.list(text="run-1", look_at=2)
    assert first.runs == ()
    second = runs.list(text="run-1", look_at=2, cursor=first.cursor)
    assert [run.id for run in second.runs] == ["run-1"]
    last = runs.list(text="run-1", look_at=2, cursor=second.cursor)
    assert last == Page((), None)


def test_a_list_of_a_namespace_has_its_runs_and_of_a_task_id_the_one(runs: Runs, greet: Any) -> None:
    for id in ("one", "two", "three"):
        deliver(greet, id=id, headers={"steps_namespace": "shared"})
    deliver(greet, id="other")
    assert listed(runs, namespace="shared") == ["three", "two", "one"]
    assert listed(runs, namespace="two") == ["two"]
    assert listed(runs, namespace="nobody") == []
    first = runs.list(namespace="shared", limit=2, status="succeeded")
    assert [run.id for run in runs.list(namespace="shared", cursor=first.cursor).runs] == ["one"]


def test_a_version_is_another_when_something_new_is_known(app: Celery, runs: Runs, greet: Any, waiting: Any) -> None:
    nothing = runs.version()
    deliver(waiting, 0, id="later")
    all_of_them, one = runs.version(), runs.version("later")
    assert nothing != all_of_them
    assert (all_of_them, one) == (runs.version(), runs.version("later"))
    deliver(greet, id="other")
    assert runs.version() != all_of_them
    assert runs.version("later") == one
    deliver(waiting, 0, id="later", retries=1)
    assert runs.version("later") != one


def test_a_version_is_the_same_while_a_lease_is_renewed(app: Celery, runs: Runs, greet: Any) -> None:
    crash(app, greet, "gone")
    before = runs.version("gone")
    store_of(app).client.call("HSET", store_of(app).keys.namespace("gone").run, "lease", "1")
    assert runs.version("gone") == before


def test_a_version_is_another_after_a_log_line(app: Celery, runs: Runs) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.talk")
    def talk(self: DurableTask) -> None:
        self.step.run("first", lambda: seen.append(runs.version("talker")))
        self.step.log.info("hello")
        self.step.run("second", lambda: seen.append(runs.version("talker")))

    seen: list[str] = []
    deliver(talk, id="talker")
    assert len({*seen, runs.version("talker")}) == 3


def test_there_is_no_version_of_a_run_that_is_not_there(runs: Runs) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nobody'"):
        runs.version("nobody")
