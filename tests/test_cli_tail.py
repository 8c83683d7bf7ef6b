"""`steps tail`: a line for everything that happens, and a quiet end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from runs.outside import store_of

from celery_steps import DurableTask, Runs
from command_line import HOSTILE, answer, hidden, in_a_terminal, run
from delivering import deliver, make_app
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.fulfil", autoretry_for=(OSError,), default_retry_delay=0, max_retries=0)
    def fulfil(self: DurableTask, said: str = "loading", fails: bool = False) -> None:
        self.step.run("load", {"id": 42}, lambda order: {**order, "said": said})
        self.step.log.warning(said, lines=3)
        self.step.sleep("short", 0)
        if fails:
            raise ValueError(said)

    return app


def test_a_run_is_a_line_for_each_step_log_line_and_status(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], id="id-1")
    lines = [line.split() for line in run(app, "tail", "id-1").output.splitlines()]
    rest = sorted(line[2:] for line in lines)
    assert rest[0][:3] == ["done", "load", "in"]
    assert rest[0][-4:] == ["{'id':", "42,", "'said':", "'loading'}"]
    assert rest[1:] == [["done", "short", "sleep"], ["succeeded", "attempt", "1"], ["warning", "loading", "lines=3"]]
    assert lines[-1][2] == "succeeded"


def test_all_runs_are_a_line_for_each_change_of_status(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "tail", _then_ctrl_c(Runs.tail))
    deliver(app.tasks["shop.fulfil"], id="id-1", headers={"steps_namespace": "order-42"})
    deliver(app.tasks["shop.fulfil"], "no card", True, id="id-2")
    result = run(app, "tail")
    assert [line.split()[2:] for line in result.output.splitlines()] == [
        ["succeeded", "order-42", "id-1", "shop.fulfil"],
        ["failed", "id-2", "shop.fulfil", "ValueError:", "no", "card"],
    ]
    assert result.exit_code == 0


def _then_ctrl_c(tail: Any) -> Any:
    def until_then(runs: Runs, name: str | None = None, *, last: int = 10) -> Iterator[Any]:
        items = tail(runs, name, last=last)
        for _ in range(2):
            yield next(items)
        raise KeyboardInterrupt

    return until_then


def test_with_json_each_line_is_a_document_that_says_what_it_is(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], id="id-1")
    items = [json.loads(line) for line in run(app, "tail", "id-1", "--json").output.splitlines()]
    assert sorted(item["item"] for item in items) == ["line", "record", "record", "run"]
    assert [item["result"] for item in items if item.get("key") == "load"] == [{"id": 42, "said": "loading"}]
    assert (items[-1]["status"], items[-1]["id"]) == ("succeeded", "id-1")


def test_last_says_how_much_of_what_there_was_is_told(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], id="id-1")
    assert len(run(app, "tail", "id-1", "--last", "2").output.splitlines()) == 2
    assert run(app, "tail", "id-1", "--last", "0").output == ""
    assert run(app, "tail", "id-1", "--last", "many").exit_code == 2


def test_who_follows_nothing_known_is_told(app: Celery) -> None:
    assert "There is no run 'nobody'" in answer(app, "tail", "nobody", code=1)["error"]


def test_hostile_text_is_followed_as_escapes(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], HOSTILE, True, id=f"id {HOSTILE}")
    store_of(app).client.call("XADD", store_of(app).keys.namespace(f"id {HOSTILE}").journal, "*", "step", HOSTILE.encode())
    assert hidden(run(app, "tail", f"id {HOSTILE}").output) == set()
    text = in_a_terminal(app, 80, "tail", f"id {HOSTILE}")
    assert hidden(text) <= {"\x1b"}
    assert "\x1b[31mred" not in text
