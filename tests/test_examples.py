"""The examples run: in memory, where the time until something comes is skipped."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery_steps.codec import Codec
from celery_steps.engine.event import Emission
from celery_steps.engine.memory import deliver, inboxes

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads an example by its name."""
    # Its tasks are shared with every later app of this process, unless forgotten.
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    monkeypatch.setattr("time.sleep", pytest.fail)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    inboxes.clear()


def decide(id: str, **data: Any) -> None:
    deliver(Codec(), Emission("decision", data, id, "order-42"))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_small_order_is_sent_without_a_question(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("approval").sell(42, 100) == "shipped"
    assert lines(capsys) == ["order 42 is on its way"]


def test_a_large_order_is_sent_once_the_team_has_said_yes(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    decide("1", ok=True, by="ann")
    assert example("approval").sell(42, 90_000) == "shipped"
    assert lines(capsys) == ["mail to the team: may this order be sent?", "order 42 is on its way"]


def test_an_order_is_refused_by_who_says_no(example: Any) -> None:
    decide("1", ok=False, by="bob")
    assert example("approval").sell(42, 90_000) == "refused by bob"


def test_nobodys_answer_goes_to_the_manager_and_is_then_a_no(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("approval").sell(42, 90_000) == "refused by nobody"
    assert lines(capsys) == [f"mail to the {who}: may this order be sent?" for who in ("team", "manager")]


def test_the_files_of_a_folder_become_one_report(example: Any, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("word " * number)
    (tmp_path / "other.md").write_text("not this one")
    assert example("fan_out").report(str(tmp_path)) == {"files": 20, "words": 190, "bytes": 950}


def test_a_parcel_is_watched_until_it_arrives(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    polling = example("polling")
    ask = polling.ask_the_carrier

    def arriving_at_the_30th_look(parcel: int) -> str:
        seen.append(parcel)
        if len(seen) == 30:
            (tmp_path / "parcel-7").touch()
        return str(ask(parcel))

    seen: list[int] = []
    monkeypatch.setattr(polling, "ask_the_carrier", arriving_at_the_30th_look)
    assert polling.watch.apply((7,)).get() == "parcel 7 has arrived"
    assert lines(capsys) == ["parcel 7: on its way"] * 29 + ["parcel 7: arrived"]  # beyond the 24 looks of one journal
