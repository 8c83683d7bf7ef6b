"""The list of runs: filters, search, pages, and what it says where there is nothing to list."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from runs.outside import store_of
from starlette.testclient import TestClient

from celery_steps import DurableTask
from celery_steps.store.keys import RunId
from celery_steps.web import console as console_module
from celery_steps.web import create_app
from delivering import app_of_its_own, deliver, make_app
from servers import RedisServer
from web.browsing import links


def shown(page: str) -> list[str]:
    """The runs of a list, in its order."""
    return re.findall(r'data-run="[^"/]*/[^"/]*/([^"/]*)"', page)


def test_the_list_has_the_newest_run_first_and_counts_by_status(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    deliver(order, "book", "no card", id="bad")
    answer = console.get("/")
    assert answer.status_code == 200
    assert shown(answer.text) == ["bad", "fine"]
    assert "ValueError: no card" in answer.text
    assert "failed <b>1</b>" in answer.text
    assert "all <b>2</b>" in answer.text


def test_the_list_is_filtered(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    deliver(order, "book", "no card", id="bad")
    deliver(order, "book", "wait", id="waits")
    assert shown(console.get("/?status=failed").text) == ["bad"]
    assert shown(console.get("/?status=failed&status=succeeded").text) == ["bad", "fine"]
    assert shown(console.get("/?task=shop.order&since=1h").text) == ["waits", "bad", "fine"]
    assert shown(console.get("/?until=1h").text) == []
    assert "waits for approved" in console.get("/?status=suspended").text


def test_a_filter_stays_in_the_form_and_in_the_links(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    page = console.get("/?task=shop.order&q=fin&since=2h").text
    assert 'name="task" value="shop.order"' in page
    assert "/?status=succeeded&task=shop.order&since=2h&q=fin" in links(page)


def test_a_form_with_empty_fields_narrows_nothing(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    answer = console.get("/?q=&task=&since=&until=&status=")
    assert answer.status_code == 200
    assert shown(answer.text) == ["fine"]
    assert ">Clear<" not in answer.text
    assert 'aria-current="true">all' in answer.text


def test_a_search_for_a_whole_name_leads_to_the_run(console: TestClient, order: Any) -> None:
    deliver(order, id="id-1", headers={"steps_namespace": "order 4/2"})
    for name in ("id-1", "order 4/2"):
        answer = console.get("/", params={"q": f" {name} "})
        assert answer.status_code == 303
        assert console.get(answer.headers["location"]).status_code == 200


def test_a_search_for_a_part_lists_what_has_it(console: TestClient, order: Any) -> None:
    deliver(order, id="id-1", headers={"steps_namespace": "order-42"})
    deliver(order, id="id-2")
    assert shown(console.get("/?q=ORDER-4").text) == ["id-1"]
    assert shown(console.get("/?q=shop.o").text) == ["id-2", "id-1"]


def test_a_search_that_gives_up_leads_further(console: TestClient, order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_LOOK_AT", 2)
    for n in range(3):
        deliver(order, id=f"run-{n}")
    page = console.get("/?q=un-0").text
    assert shown(page) == []
    assert "None of the 2 runs that were looked at fits" in page
    assert "Search further" in page
    (further,) = [link for link in links(page) if "cursor=" in link]
    assert shown(console.get(further).text) == ["run-0"]


def test_pages_lead_from_the_newest_to_the_oldest_and_back(app: Celery, console: TestClient) -> None:
    store = store_of(app)
    for n in range(120):
        keys, run = store.keys.namespace(f"run-{n}"), RunId("t", f"run-{n}")
        store.client.exchange(
            ["ZADD", store.keys.status(keys.partition, "succeeded"), str(1000 + n), keys.member(str(run))],
            ["HSET", keys.run, f"{run}:status", "succeeded", f"{run}:changed", str(1000 + n)],
        )
    met: list[str] = []
    here = "/?status=succeeded"
    for _ in range(3):
        page = console.get(here).text
        met += shown(page)
        here = next((link for link in links(page) if "cursor=" in link), "")
    assert met == [f"run-{n}" for n in reversed(range(120))]
    assert here == ""
    assert "/?status=succeeded" in links(page)  # the newest
    assert "data-live-url" not in page  # it does not move


def test_without_runs_the_list_says_what_makes_one(console: TestClient) -> None:
    page = console.get("/").text
    assert "There are no runs yet" in page
    assert "steps_backend" in page


def test_progress_in_numbers_that_python_does_not_write_has_a_page(
    app: Celery, console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_steps.engine.progress._check_number", lambda name, value: None)  # as versions before did
    seen: list[Any] = []

    @app.task(bind=True, base=DurableTask, name="shop.far")
    def far(self: DurableTask) -> None:
        self.step.progress(10**5000, 10**5001)
        seen.extend(console.get(path) for path in ("/", "/run/far"))

    deliver(far, id="far")
    assert [answer.status_code for answer in seen] == [200, 200]
    assert all("characters) of {" in answer.text for answer in seen)


def test_a_filter_that_fits_nothing_says_so(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    page = console.get("/?status=failed&q=nobody").text
    assert "No run fits" in page
    assert "failed <b>0</b>" in page


def test_runs_that_are_due_and_that_nobody_takes_are_told(console: TestClient, app: Celery, order: Any) -> None:
    deliver(order, "book", "retry", id="later")
    store = store_of(app)
    keys = store.keys.namespace("later")
    member = keys.member(str(RunId("shop.order", "later")))
    store.client.call("ZADD", store.keys.due(keys.partition, app.main or ""), "XX", "1000", member)
    assert "does a worker run?" in console.get("/").text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("status=done", "There is no status &#39;done&#39;"),
        ("since=yesterday", "since must be an aware datetime"),
        ("until=2026-01-01", "until has no time zone"),
        ("cursor=%00", "is no cursor"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(console: TestClient, query: str, message: str) -> None:
    answer = console.get(f"/?{query}")
    assert answer.status_code == 400
    assert message in answer.text


def test_without_redis_the_console_says_so(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    app = make_app(server, steps_lease_ttl=1)  # patience is no longer
    console = TestClient(create_app(app), base_url="http://localhost")
    assert console.get("/").status_code == 200
    server.stop()
    for path in ("/", "/run/any"):
        answer = console.get(path)
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.text
        assert "cannot be reached" in answer.text
    assert console.get("/static/console.css").status_code == 200


def test_wrong_settings_are_told() -> None:
    wrong = app_of_its_own("wrong", broker="memory://")
    answer = TestClient(create_app(wrong), base_url="http://localhost").get("/")
    assert answer.status_code == 500
    assert "there is no Redis to keep journals in" in answer.text
