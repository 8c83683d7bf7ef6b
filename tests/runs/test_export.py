"""Runs.export and `steps export`: one run as a document that people read and code is replayed against."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, JournalLost, RunRefused, Runs, StepsError
from celery_steps.export import entries_of
from celery_steps.export import message_of as call_of
from celery_steps.worker import messages
from command_line import HOSTILE, answer, run
from delivering import deliver
from runs.outside import store_of


class Declined(Exception):
    pass


def declines() -> None:
    raise Declined(HOSTILE)


@pytest.fixture
def order(app: Celery) -> Any:
    @app.task(bind=True, base=DurableTask, name="shop.order")
    def order(self: DurableTask, amount: str, *, to: str) -> str:
        self.step.log.info("begins", card="4242")
        self.step.run("price", Decimal(amount), lambda price: {"total": price, "receipt": b"\x00\xff"})
        try:
            self.step.run("charge", declines)
        except Declined:
            self.step.sleep("cool-off", "1d")
        self.step.wait_for_event("approval")
        return to

    return order


@pytest.fixture
def exported(order: Any, runs: Runs) -> dict[str, Any]:
    deliver(order, "1.50", kwargs={"to": "ann"}, id="id-1", headers={"steps_namespace": "order-42"})
    runs.emit("approval", {"by": "bob"}, to="order-42")
    return runs.export("order-42")


def test_it_says_what_the_run_is_was_called_with_recorded_awaits_and_said(exported: dict[str, Any]) -> None:
    run, call = exported["run"], exported["call"]
    assert (run["namespace"], run["id"], run["task"], run["status"]) == ("order-42", "id-1", "shop.order", "suspended")
    assert [attempt["ended"] for attempt in run["history"]] == ["suspended"]
    assert [wait["key"] for wait in run["waits"]] == ["cool-off"]
    assert (call["task"], call["args"], call["kwargs"]) == ("shop.order", ["1.50"], {"to": "ann"})
    assert [(entry["kind"], entry.get("key")) for entry in exported["journal"]] == [
        ("attempt", None), ("step", "price"), ("step", "charge"), ("wait", "cool-off"), ("suspend", None),
    ]  # fmt: skip
    _, price, charge, wait, suspended = exported["journal"]
    assert price["input"] == {"$decimal": "1.50"}
    assert price["result"] == {"total": {"$decimal": "1.50"}, "receipt": {"$bytes": "AP8="}}
    assert charge["error"]["message"] == HOSTILE
    assert datetime.fromisoformat(wait["until"]) == datetime.fromisoformat(suspended["wake_at"])
    assert [(event["event"], event["data"]) for event in exported["inbox"]] == [("approval", {"by": "bob"})]
    assert [(line["message"], line["data"]) for line in exported["log"]] == [("begins", {"card": "4242"})]
    assert "secrets too" in exported["warning"]


def test_what_was_recorded_is_in_it_byte_for_byte(app: Celery, exported: dict[str, Any]) -> None:
    exported = json.loads(json.dumps(exported))
    entries = list(store_of(app).entries("order-42"))
    assert entries_of(exported) == entries
    assert [b64decode(entry["bytes"]) for entry in exported["journal"]] == [entry.data for entry in entries]
    name, args, kwargs, _ = messages.opened(app, call_of(exported) or b"")
    assert (name, args, kwargs) == ("shop.order", ["1.50"], {"to": "ann"})


def test_a_damaged_entry_says_so_and_the_others_are_there(app: Celery, exported: dict[str, Any], runs: Runs) -> None:
    journal = store_of(app).keys.namespace("order-42").journal
    store_of(app).client.call("XADD", journal, "*", "step", b"\xc1 no such thing")
    *others, damaged = runs.export("order-42")["journal"]
    assert others == exported["journal"]
    assert "corrupt" in damaged["unreadable"]
    assert b64decode(damaged["bytes"]) == b"\xc1 no such thing"


@pytest.mark.parametrize("kind", ["succeeded", "failed", "cancelled"])
def test_a_run_that_is_over_tells_its_end(greet: Any, runs: Runs, waiting: Any, kind: str) -> None:
    if kind == "cancelled":
        deliver(waiting, id="id-1")
        runs.cancel("id-1")
        deliver(waiting, id="id-1", retries=1)
    else:
        deliver(greet, "bob", kind == "failed", id="id-1")
    exported = runs.export("id-1")
    end = exported["journal"][-1]
    assert (exported["run"]["status"], end["kind"], end["outcome"]) == (kind, "finish", kind)
    if kind == "succeeded":
        assert end["value"] == "hello, bob"
    if kind == "failed":
        assert end["value"] == {"type": "builtins.ValueError", "message": "no card"}


def test_what_is_not_there_cannot_be_exported(app: Celery, runs: Runs, exported: dict[str, Any]) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nobody'"):
        runs.export("nobody")
    store_of(app).client.call("DEL", store_of(app).keys.namespace("order-42").journal)
    with pytest.raises(JournalLost, match="nothing to export"):
        runs.export("order-42")


def test_another_format_and_another_document_are_told_apart() -> None:
    with pytest.raises(StepsError, match="format 2, this celery-steps reads 1"):
        entries_of({"format": 2})
    with pytest.raises(StepsError, match="This is no exported run"):
        entries_of({"runs": []})


# -- the command --------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_document(app: Celery, exported: dict[str, Any]) -> None:
    printed = run(app, "export", "order-42")
    assert printed.exit_code == 0
    assert printed.output.isascii()
    without_time = {name: value for name, value in exported.items() if name != "made_at"}
    assert without_time.items() <= json.loads(printed.output).items()
    assert without_time.items() <= answer(app, "export", "order-42").items()


def test_the_command_writes_a_file_that_its_owner_alone_may_read(app: Celery, exported: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    said = run(app, "export", "order-42", "--output", str(file))
    assert said.exit_code == 0
    assert said.output.startswith(f"Exported to {file}")
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["journal"] == exported["journal"]
    assert answer(app, "export", "order-42", "--output", str(file)) == {"exported": "order-42", "file": str(file)}


def test_the_command_says_why_it_cannot(app: Celery, exported: dict[str, Any], tmp_path: Path) -> None:
    nobody = run(app, "export", "nobody")
    assert (nobody.exit_code, "There is no run 'nobody'" in nobody.output) == (1, True)
    nowhere = run(app, "export", "order-42", "--output", str(tmp_path / "there is" / "no such folder"))
    assert (nowhere.exit_code, "cannot be written: No such file" in nowhere.output) == (1, True)
