"""Which page a name leads to: a run's, a namespace's, or none."""

from __future__ import annotations

from typing import Any

from celery import Celery
from runs.outside import store_of
from starlette.testclient import TestClient

from celery_steps import DurableTask
from delivering import deliver
from web.browsing import links


def test_a_run_is_shown_under_its_namespace_and_under_its_task_id(console: TestClient, order: Any) -> None:
    deliver(order, id="id-1", headers={"steps_namespace": "order-42"})
    for path in ("/run/id-1", "/run/order-42"):
        page = console.get(path).text
        assert "order-42" in page
        assert "shop.order" in page


def test_what_is_no_run_says_why(console: TestClient) -> None:
    answer = console.get("/run/nobody")
    assert answer.status_code == 404
    assert "There is no run &#39;nobody&#39; in the store: it has not begun a step" in answer.text
    assert console.get("/nothing").status_code == 404
    assert "All runs" in console.get("/nothing").text


def test_a_namespace_of_several_runs_lists_them(console: TestClient, order: Any) -> None:
    for id in ("one", "two"):
        deliver(order, id=id, headers={"steps_namespace": "shared"})
    page = console.get("/run/shared").text
    assert "2 runs share this namespace" in page
    assert {"/run/one", "/run/two"} <= set(links(page))
    assert console.get("/run/one").status_code == 200


def test_a_namespace_without_a_run_shows_what_others_recorded_in_it(app: Celery, console: TestClient) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.borrow")
    def borrow(self: DurableTask) -> None:
        self.step.run("reserve", lambda: 1, namespace="stock")

    deliver(borrow, id="one")
    page = console.get("/run/stock").text
    assert "no run of its own" in page
    assert "reserve" in page
    assert "/run/one" in links(page)


def test_a_record_that_cannot_be_read_says_why(app: Celery, console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    store = store_of(app)
    journal = store.keys.namespace("one").journal
    (id, *_), *_ = store.client.call("XREVRANGE", journal, "+", "-", "COUNT", "1")
    ms, n = id.decode().split("-")
    store.client.call("XADD", journal, f"{ms}-{int(n) + 1}", "step", b"\xc1 no entry")
    answer = console.get("/run/one")
    assert answer.status_code == 200
    assert "is corrupt" in answer.text
    assert "price" in answer.text


def test_a_run_whose_journal_is_lost_is_shown_all_the_same(app: Celery, console: TestClient, order: Any) -> None:
    deliver(order, "book", "no card", id="one")
    store = store_of(app)
    store.client.call("DEL", store.keys.namespace("one").journal)
    answer = console.get("/run/one")
    assert answer.status_code == 200
    assert "failed" in answer.text
