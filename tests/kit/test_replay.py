"""`replay`: an exported run against the code as it is now."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, StepsError
from celery_steps.codec import pack
from celery_steps.testing import Steps, replay


def body_of(app: Celery, body: Callable[[Any, int], Any], name: str = "shop.order") -> Any:
    app.tasks.pop(name, None)

    @app.task(bind=True, base=DurableTask, name=name)
    def order(self: DurableTask, number: int) -> Any:
        return body(self, number)

    return order


def as_recorded(self: DurableTask, number: int) -> str:
    cents = self.step.run("price", number, lambda number: number * 100)
    self.step.sleep("cool-off", "1h")
    self.step.run("ship", lambda: None)
    return f"shipped for {cents}"


@pytest.fixture
def order(app: Celery) -> Any:
    return body_of(app, as_recorded)


@pytest.fixture
def over(steps: Steps, order: Any) -> dict[str, Any]:
    """A run that is over."""
    return steps.runs(order.app).export(steps.start(order, 42).finish().id)


@pytest.fixture
def waiting(steps: Steps, order: Any) -> dict[str, Any]:
    """A run that waits."""
    return steps.runs(order.app).export(steps.start(order, 42).id)


def test_code_as_it_was_is_fine_and_calls_no_handler(app: Celery, over: dict[str, Any], waiting: dict[str, Any]) -> None:
    def same(self: DurableTask, number: int) -> str:
        cents = self.step.run("price", number, pytest.fail)
        self.step.sleep("cool-off", "9h")
        self.step.run("ship", pytest.fail)
        return f"shipped for {cents}"

    today = body_of(app, same)
    assert replay(over, today).ok
    still = replay(waiting, today)
    assert (still.ok, still.status, still.next) == (True, "suspended", None)


def test_a_file_of_the_command_is_replayed_against_the_task_of_the_current_app(
    app: Celery, over: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(over))
    app.set_current()
    assert replay(file).ok
    assert replay(str(file)).task == "shop.order"
    app.tasks.pop("shop.order")
    assert replay(file).diverges == "There is no durable task 'shop.order' in this code."


def test_a_task_that_has_another_name_now_may_be_given(app: Celery, over: dict[str, Any]) -> None:
    assert replay(over, body_of(app, as_recorded, "shop.order_v2")).ok


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (lambda self, number: self.step.run("price", 43, print), "Step 'price' (occurrence 1) in namespace"),
        (lambda self, number: self.step.sleep("price", 1), "recorded by step.run, and is asked for by step.sleep"),
        (lambda self, number: 1 // 0, "The body raises ZeroDivisionError"),
        (lambda self, number: self.step.run("pack", print), "comes to the new step 'pack' (occurrence 1)"),
        (lambda self, number: as_recorded(self, number) + "!", "The body returns 'shipped for 4200!', the recorded run returned"),
        (lambda self, number: object(), "cannot be encoded"),
    ],
    ids=["input", "verb", "raises", "new step", "result", "not encodable"],
)
def test_a_divergence_names_its_place(app: Celery, over: dict[str, Any], body: Any, place: str) -> None:
    check = replay(over, body_of(app, body))
    assert not check.ok
    assert place in check.diverges


def test_a_recorded_step_that_the_code_does_not_come_by_is_named(app: Celery, over: dict[str, Any]) -> None:
    check = replay(over, body_of(app, lambda self, number: f"shipped for {self.step.run('price', number, print)}"))
    assert (check.ok, check.unmet) == (False, (("cool-off", 1), ("ship", 1)))


@pytest.mark.parametrize(("error", "ok"), [(ValueError("no card"), True), (ValueError("no line"), False), (None, False)])
def test_a_run_that_failed_is_to_fail_again(steps: Steps, app: Celery, error: Exception | None, ok: bool) -> None:
    def fails(with_what: Exception | None) -> Any:
        def body(self: DurableTask, number: int) -> str:
            self.step.run("price", number, str)
            if with_what is not None:
                raise with_what
            return "fine"

        return body_of(app, body)

    handle = steps.start(fails(ValueError("no card")), 1)
    check = replay(steps.runs().export(handle.id), fails(error))
    assert check.ok is ok
    if not ok:
        assert "the recorded run" in check.diverges


def test_what_is_no_exported_run_is_refused(tmp_path: Path, over: dict[str, Any]) -> None:
    broken, listed = tmp_path / "broken.json", tmp_path / "list.json"
    broken.write_text("{")
    listed.write_text("[]")
    for given, why in [
        (tmp_path / "missing.json", "cannot be read"),
        (broken, "is no JSON"),
        (listed, "is no exported run"),
        ({"runs": []}, "This is no exported run"),
        ({**over, "format": 99}, "format 99"),
        ({name: value for name, value in over.items() if name != "run"}, "This is no exported run"),
    ]:
        with pytest.raises(StepsError, match=why):
            replay(given)


class Trap:
    """Pickle calls this when it reads it."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a document has chosen that it is read by pickle",)


def test_a_document_does_not_choose_by_what_it_is_read(order: Any, over: dict[str, Any]) -> None:
    message = pack([1, "shop.order", "application/x-python-serialize", "binary", pickle.dumps(Trap())])
    check = replay({**over, "call": {"bytes": b64encode(message).decode()}}, order)
    assert "this app does not accept the content type 'application/x-python-serialize'" in check.diverges


def test_a_message_that_is_no_base64_is_refused(order: Any, over: dict[str, Any]) -> None:
    for call in ({"bytes": "x"}, {"bytes": None}, {"no": "bytes"}, "text"):
        with pytest.raises(StepsError, match="This is no exported run"):
            replay({**over, "call": call}, order)


def test_a_run_whose_message_redis_had_no_more_cannot_be_replayed(order: Any, over: dict[str, Any]) -> None:
    assert "message is gone" in replay({**over, "call": None}, order).diverges
