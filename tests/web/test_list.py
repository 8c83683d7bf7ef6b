"""The list of runs: filters, search, pages, and what it says where there is nothing to list."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from delivering import deliver


def test_the_list_has_the_newest_run_first_and_counts_by_status(console: TestClient, order: Any) -> None:
    deliver(order, id="fine")
    deliver(order, "book", "no card", id="bad")
    answer = console.get("/")
    assert answer.status_code == 200
    assert answer.text.index('href="/run/bad"') < answer.text.index('href="/run/fine"')
    assert "ValueError: no card" in answer.text
    assert "failed <b>1</b>" in answer.text
    assert "all <b>2</b>" in answer.text
