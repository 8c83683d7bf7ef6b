"""Actions: what each asks of `Runs`, and what is told of it afterwards."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from starlette.testclient import TestClient

from celery_steps import DurableTask, Runs
from celery_steps.web.actions import possible
from delivering import deliver
from web.browsing import act, step, told


@pytest.fixture
def pay(app: Celery) -> Any:
    """A task whose handler is stopped half-way, inside a step that must not run twice: it waits in doubt."""

    @app.task(bind=True, base=DurableTask, name="shop.pay")
    def pay(self: DurableTask, stopped: bool = True) -> Any:
        def charge() -> str:
            if stopped:
                raise SoftTimeLimitExceeded
            return "charged"

        return self.step.run("charge", charge, at_most_once=True)

    return pay


@pytest.fixture
def in_doubt(runs: Runs, pay: Any) -> None:
    deliver(pay, id="one")
    assert runs.get("one").status == "in_doubt"


def test_a_run_is_paused_and_unpaused_and_cancelled(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    assert "start no further step" in told(console, act(console, "/run/one/pause"))
    assert runs.get("one").status == "paused"
    assert told(console, act(console, "/run/one/unpause")) == "It carries on."
    assert runs.get("one").status != "paused"
    assert "end as cancelled" in told(console, act(console, "/run/one/cancel"))
    deliver(order, "book", "wait", id="one")
    assert runs.get("one").status == "cancelled"


def test_a_refusal_is_told_in_its_own_words(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, id="one")
    answer = act(console, "/run/one/cancel")
    with pytest.raises(Exception, match="succeeded") as refusal:
        runs.cancel("one")
    assert told(console, answer) == str(refusal.value)


def test_an_action_on_a_run_that_is_not_there_is_told_on_the_page_that_says_so(console: TestClient) -> None:
    answer = act(console, "/run/nobody/pause")
    assert "There is no run 'nobody'" in told(console, answer)
    assert console.get(answer.headers["location"]).status_code == 404
    assert "end as cancelled" in told(console, act(console, "/run/nobody/cancel"))  # before it has begun


def test_a_failed_run_is_retried_from_a_step(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, "book", "no card", id="one")
    assert "begins again" in told(console, act(console, "/run/one/retry", step=step("price")))
    assert runs.get("one").status in ("retrying", "suspended", "running")
    assert runs.records("one") == []


def test_a_copy_is_made_and_its_page_is_one_link_away(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, id="one")
    answer = act(console, "/run/one/fork", step=step("ship"), namespace="a copy")
    page = console.get(answer.headers["location"]).text
    assert '<a href="/run/a~20copy">a copy</a>' in page
    assert "Its copy is on its way" in page
    assert [record.key for record in runs.records("a copy")] == ["price"]
    assert "price" in console.get("/run/a~20copy").text  # also before a worker has taken it up


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"how": "done", "result": '{"paid": true}'}, ("done", {"paid": True})),
        ({"how": "done", "result": "null"}, ("done", None)),
        ({"how": "failed", "text": "never arrived"}, ("failed", None)),
    ],
)
def test_a_doubt_is_resolved(
    console: TestClient, runs: Runs, in_doubt: None, fields: dict[str, str], outcome: tuple[str, Any]
) -> None:
    assert "resolve" in possible(runs.get("one"))
    assert "it carries on" in told(console, act(console, "/run/one/resolve", step=step("charge"), **fields))
    record = runs.records("one")[-1]
    assert (record.status, record.result) == outcome


def test_a_step_in_doubt_is_run_again(console: TestClient, runs: Runs, pay: Any, in_doubt: None) -> None:
    told(console, act(console, "/run/one/resolve", how="rerun"))
    deliver(pay, False, id="one", redelivered=True)
    assert runs.records("one")[-1].result == "charged"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"how": "done", "result": "paid"}, "The result must be JSON: .* A text is written in quotes"),
        ({"how": "done", "result": "[" * 100_000}, "The result must be JSON"),
        ({"how": "done"}, "The result must be JSON"),
        ({}, "Say one of"),
        ({"how": "rerun", "step": "x:charge"}, "names no step"),
        ({"how": "rerun", "step": "1:%FF"}, "names no step"),
        ({"how": "rerun", "step": f"{'9' * 5000}:charge"}, "names no step"),
        ({"how": "rerun", "step": step("ship")}, "ship"),
    ],
)
def test_a_resolution_that_says_nothing_changes_nothing(
    console: TestClient, runs: Runs, in_doubt: None, fields: dict[str, str], message: str
) -> None:
    said = told(console, act(console, "/run/one/resolve", **fields))
    assert re.search(message, said), said
    assert runs.get("one").status == "in_doubt"


def test_an_event_is_sent_to_a_run(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    assert (
        told(console, act(console, "/run/one/emit", event="approved", data='{"by": "ann"}')) == "Sent: it reached 1 wait or task."
    )
    deliver(order, "book", "wait", id="one")
    assert runs.records("one")[-1].result == {"by": "ann"}


def test_an_event_is_sent_to_everyone_or_to_a_name(console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    assert told(console, act(console, "/act/emit", event="approved", data="1")) == "Sent: it reached 1 wait or task."
    assert "kept there until a run waits for it" in told(console, act(console, "/act/emit", event="approved", to="later"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"event": "approved", "data": "yes"}, "data must be JSON"),
        ({"event": "approved", "data": "null"}, "None"),
        ({"event": "", "data": "{}"}, "event"),
        ({}, "event"),
    ],
)
def test_an_event_that_is_none_is_refused(console: TestClient, fields: dict[str, str], message: str) -> None:
    assert message in told(console, act(console, "/act/emit", **fields))


def test_a_long_refusal_is_cut(console: TestClient, order: Any) -> None:
    for n in range(8):
        deliver(order, "book", "wait", id=f"{n:03}{'x' * 400}", headers={"steps_namespace": "shared"})
    said = told(console, act(console, "/run/shared/cancel"))
    assert "has 8 runs: name one by its task id" in said
    assert said.endswith("…")


@pytest.mark.parametrize("character", ["é", "😀", '"'])
def test_what_is_told_fits_into_a_cookie_whatever_it_is_written_in(console: TestClient, order: Any, character: str) -> None:
    for n in range(8):
        deliver(order, "book", "wait", id=f"{n:03}{character * 200}", headers={"steps_namespace": "shared"})
    answer = act(console, "/run/shared/cancel")
    cookie = answer.headers["set-cookie"]
    assert len(cookie) < 4096
    said = told(console, answer)
    assert said.startswith("Namespace 'shared' has 8 runs: name one by its task id.\n")
    assert f"007{character * 200}" in said
    assert said.endswith("…")


def test_the_name_of_a_copy_fits_into_the_cookie_too(console: TestClient, order: Any) -> None:
    deliver(order, id="one")
    answer = act(console, "/run/one/fork", namespace="😀" * 512)
    assert len(answer.headers["set-cookie"]) < 4096
    assert told(console, answer).endswith("😀" * 512)


def test_a_run_that_is_rolled_back_offers_nothing_that_would_be_refused(app: Celery, console: TestClient, runs: Runs) -> None:
    seen: list[Any] = []

    def undo(reservation: str) -> None:
        run = runs.get("one")
        seen.extend((run.status, possible(run)))
        seen.extend(told(console, act(console, f"/run/one/{action}")) for action in ("cancel", "pause"))

    @app.task(bind=True, base=DurableTask, name="shop.undone")
    def undone(self: DurableTask) -> None:
        self.step.run("reserve", lambda: "r1", rollback=undo)
        raise ValueError("no")

    deliver(undone, id="one")
    assert seen[:2] == ["rolling_back", ["fork", "emit"]]
    assert all("rolling_back" in refusal for refusal in seen[2:])
