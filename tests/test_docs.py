"""Code in the README and in docs/ runs, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask

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
    assert capsys.readouterr().out.startswith("charging order 42 with key ")


def test_the_quick_starts_task_greets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute(ROOT / "docs" / "quickstart.md", monkeypatch)["greet"].apply(args=("ann",)).get() == "HELLO, ANN"


def test_the_how_tos_tasks_do_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(ROOT / "docs" / "howto.md", monkeypatch)
    assert names["send_invoice"](7) == "sent 7"
    assert names["buy"](500) == "r-1"
    assert names["checkout"](500) == "sorry"


def test_what_goes_wrong_goes_as_the_page_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(ROOT / "docs" / "when-things-go-wrong.md", monkeypatch)
    assert names["pay"]() == "paid"
    assert names["pay_out"](42) == "transferred for 42"
    with pytest.raises(ValueError, match="no passport"):
        names["travel"]()
    assert capsys.readouterr().out == "cancelled hotel 42\ncancelled flight 42\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
