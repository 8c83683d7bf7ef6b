"""Code in the README and in docs/ runs, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import celery.signals
import pytest
from celery import Celery
from prometheus_client import REGISTRY

from celery_steps import DurableTask
from celery_steps.signals import SIGNALS
from celery_steps.testing import Steps
from celery_steps.worker.listening import about_to_begin

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> str:
    """All Python of a page, in order."""
    found = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join("\n".join(line.removeprefix(indent) for line in code.splitlines()) for indent, code in found)


def execute(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # A page's tasks are shared with every later app of this process, unless forgotten.
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    # So are what it connects and registers.
    for signal in (*SIGNALS.values(), about_to_begin, celery.signals.task_postrun, celery.signals.worker_ready):
        monkeypatch.setattr(signal, "receivers", list(signal.receivers))
    monkeypatch.setattr(REGISTRY, "_collector_to_names", {})
    monkeypatch.setattr(REGISTRY, "_names_to_collectors", {})
    app = Celery("proj")
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.__dict__.update(app=app, DurableTask=DurableTask)
    exec(compile(blocks(page), page.name, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(page, monkeypatch)


def test_the_readmes_task_ships_the_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(ROOT / "README.md", monkeypatch)
    assert names["fulfil"](42) == "shipped"
    charging, shipping = capsys.readouterr().out.splitlines()
    assert charging.startswith("charging order 42 with key ")
    assert shipping == f"shipping charge-42 in process {os.getpid()}"  # which the page says to kill


def test_the_quick_starts_task_greets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute(ROOT / "docs" / "quickstart.md", monkeypatch)["greet"].apply(args=("ann",)).get() == "HELLO, ANN"


def test_the_how_tos_tasks_do_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(ROOT / "docs" / "howto.md", monkeypatch)
    assert names["send_invoice"](7) == "sent 7"
    assert names["buy"](500) == "r-1"
    assert names["checkout"](500) == "sorry"
    assert names["trial"]("ann", "2030-01-01T00:00:00+00:00") == "closed ann"
    assert names["confirm"](42) == "nobody answered"
    assert names["pay"](42) == 0
    assert names["pack"]({"order": 42}) == "packed 42"
    assert names["book"]() == "page 1"
    assert names["compare"](["ab", "c"]) == ["page 1", 200, 100]
    assert names["import_rows"](["a", "b"]) == 2
    assert names["send_parcel"](7) == "posted label 7"


def test_steps_come_to_what_the_canvases_of_the_page_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(ROOT / "docs" / "from-chains-to-steps.md", monkeypatch)
    names["app"].conf.task_always_eager = True
    items = ["book", "lamp", "bed"]
    by_chain, by_chord = names["fulfil_by_chain"](42), names["invoice_by_chord"](items)
    assert names["fulfil"](42) == by_chain.apply().get() == "order 42 is on its way"
    assert names["invoice"](items) == by_chord.apply().get() == 1100
    assert names["order_and_invoice"](42, items) == ["order 42 is on its way", 1100]
    assert names["order_and_invoice"](42, [None])[1] == 0
    assert names["remind"]("ann") == "mail to ann"


def test_what_goes_wrong_goes_as_the_page_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(ROOT / "docs" / "when-things-go-wrong.md", monkeypatch)
    assert names["pay"]() == "paid"
    assert names["pay_out"](42) == "transferred for 42"
    with pytest.raises(ValueError, match="no passport"):
        names["travel"]()
    assert capsys.readouterr().out == "cancelled hotel 42\ncancelled flight 42\n"


def test_receivers_and_metrics_of_the_page_hear_of_its_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = execute(ROOT / "docs" / "observability.md", monkeypatch)
    with caplog.at_level("INFO", "shop"):
        assert names["charge"](500) == "charged 500"
    assert re.search(r"charge took \d+ ms in attempt 1 of", caplog.text)
    executed = {"task": names["charge"].name, "key": "charge"}
    assert REGISTRY.get_sample_value("celery_steps_executed_total", executed) == 1


def test_the_tests_of_the_page_about_testing_pass(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> None:
    names = execute(ROOT / "docs" / "testing.md", monkeypatch)
    steps.stub("charge", "r-11")
    november = steps.start(names["fulfil"], 11)
    names["test_the_run_of_november_still_goes_its_way"](steps.runs().export(november.id))
    orders = ("that_nobody_approves_expires", "is_shipped_once_it_is_approved", "survives_a_crash_anywhere")
    for name in orders:
        with Steps() as its_own:
            names[f"test_an_order_{name}"](its_own)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
