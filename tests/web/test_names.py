"""Names in addresses: whatever a namespace or a task id holds, its page can be reached."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from celery import Celery
from starlette.convertors import CONVERTOR_TYPES
from starlette.testclient import TestClient

import celery_steps.web.names  # noqa: F401
from celery_steps import DurableTask, Runs
from delivering import deliver
from web.browsing import act, links, step, told

NAMES = {
    "plain": "order-42",
    "slashes": "a/b//c/",
    "dots": "..",
    "climbing": "../../etc",
    "encoded": "%2e%2e %2F ~2F %",
    "query": "a b?c#d&e=f;g+h",
    "long": "😀" * 512,
    "control": "\x00\n\r\t\x7f\u202egnp.exe",
    "quotes": "\"'<>C:\\x",
    "route": "live",
}


@pytest.mark.parametrize("name", [*NAMES.values(), ".", "/", "lone \ud800"], ids=[*NAMES, "dot", "slash", "surrogate"])
def test_a_name_is_one_segment_that_nobody_rewrites(name: str) -> None:
    convertor = CONVERTOR_TYPES["steps_name"]
    segment = convertor.to_string(name)
    assert convertor.convert(segment) == name
    assert urljoin("http://localhost/run/x", f"/run/{segment}/live") == f"http://localhost/run/{segment}/live"
    assert segment.isascii()
    assert not set(segment) & set("/%?#&;+\\ ")


def test_a_name_that_was_typed_by_hand_is_taken_as_it_is() -> None:
    convertor = CONVERTOR_TYPES["steps_name"]
    for name in ("order-42", "größe 50%41", "~x"):
        assert convertor.convert(name) == name


@pytest.mark.parametrize("segment", ["~FF", "~C3", "one~FF"])
def test_bytes_that_are_no_text_name_no_run(console: TestClient, segment: str) -> None:
    answer = console.get(f"/run/{segment}")
    assert answer.status_code == 404
    assert "There is no run" in answer.text


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_run_of_any_name_is_listed_shown_and_retried_from_a_step_of_any_name(
    app: Celery, console: TestClient, name: str
) -> None:
    @app.task(bind=True, base=DurableTask, name="shop.any")
    def any_name(self: DurableTask) -> None:
        self.step.run(name, lambda: None)
        raise ValueError("no")

    deliver(any_name, id="one", headers={"steps_namespace": name})
    path = f"/run/{CONVERTOR_TYPES['steps_name'].to_string(name)}"
    assert "/run/one" in links(console.get("/").text)
    assert "shop.any" in console.get(path).text
    assert "begins again" in told(console, act(console, f"{path}/retry", step=step(name)))
    assert Runs(app).get("one").status != "failed"


def test_a_task_id_with_a_slash_has_a_page(console: TestClient, order: object) -> None:
    deliver(order, id="../one")
    assert "/run/..~2Fone" in links(console.get("/").text)
    assert console.get("/run/..~2Fone").status_code == 200
