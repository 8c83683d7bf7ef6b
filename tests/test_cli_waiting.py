"""`steps logs`, `steps emit`, and what `steps show` and `steps list` tell of a run that waits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from runs.outside import store_of

from celery_steps import DurableTask, Runs
from celery_steps.engine import telling
from command_line import HOSTILE, LONE, answer, hidden, in_a_terminal, run
from delivering import deliver, make_app
from servers import RedisServer, free_port


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.approval")
    def approval(self: DurableTask, timeout: str | None = "24h") -> Any:
        self.step.log.info("begun", order=42)
        self.step.run("load", lambda: self.step.log.warning("slow"))
        self.step.progress(1, 3, "loaded", rows=7)
        self.step.sleep("short", 0)
        return self.step.wait_for_event("approved", "order.approved", timeout=timeout)

    @app.task(bind=True, base=DurableTask, name="shop.many")
    def many(self: DurableTask, waits: int) -> None:
        with self.step.parallel() as block:
            for number in range(waits):
                block.wait_for_event("part", f"part {number}")
            block.sleep("rest", "1h")

    return app


@pytest.fixture
def approval(app: Celery) -> Any:
    return app.tasks["shop.approval"]


# -- logs ---------------------------------------------------------------------------------------------------------------


def test_logs_are_a_line_each(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")
    head, begun, slow = run(app, "logs", "id-1").output.splitlines()
    assert head.split() == ["TIME", "(UTC)", "LEVEL", "ATTEMPT", "STEP", "MESSAGE"]
    assert begun.split()[2:] == ["info", "1", "begun", "order=42"]
    assert slow.split()[2:] == ["warning", "1", "load", "slow"]
    assert datetime.fromisoformat(" ".join(slow.split()[:2]))


def test_logs_are_filtered(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")

    def said(*options: str) -> list[str]:
        return [line["message"] for line in answer(app, "logs", "id-1", *options)["lines"]]

    assert said() == ["begun", "slow"]
    assert said("--level", "warning") == ["slow"]
    assert said("--limit", "1") == ["slow"]
    assert said("--since", "1h") == ["begun", "slow"]
    assert said("--since", "2126-01-01T00:00:00Z") == []
    assert run(app, "logs", "id-1", "--level", "error").output == "No lines.\n"


def test_logs_of_a_namespace_name_the_run(app: Celery, approval: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(approval, id=id, headers={"steps_namespace": "order-42"})
    head, *lines = run(app, "logs", "order-42").output.splitlines()
    assert "RUN" in head.split()
    assert [line.split()[3] for line in lines] == ["id-1", "id-1", "id-2"]  # they share the step, and what its handler said
    first = answer(app, "logs", "order-42")["lines"][0]
    assert (first["run_id"], first["data"], first["namespace"]) == ("id-1", {"order": 42}, "order-42")


# -- emit ---------------------------------------------------------------------------------------------------------------


def test_an_event_is_sent(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")
    assert answer(app, "emit", "order.approved", '{"by": "ann"}', "--to", "id-1", "--id", "e-1") == {"reached": 1}
    assert run(app, "emit", "order.approved", '{"by": "bob"}', "--to", "id-1", "--id", "e-1").output == "Reached 1.\n"
    assert deliver(approval, id="id-1", redelivered=True).retval == {"by": "ann"}


def test_an_event_without_data_is_an_empty_object(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")
    assert run(app, "emit", "order.approved").output == "Reached 1.\n"
    assert deliver(approval, id="id-1", redelivered=True).retval == {}


def test_an_event_that_reached_nobody_says_what_becomes_of_it(app: Celery) -> None:
    assert run(app, "emit", "paid").output == "Nobody waited for it.\n"
    assert run(app, "emit", "paid", "--to", "order-42").output == "Nobody waits for it yet: it is kept there.\n"


def test_an_event_to_a_finished_namespace_ends_with_1(app: Celery, approval: Any) -> None:
    deliver(approval, "0s", id="id-1")
    result = run(app, "emit", "paid", "--to", "id-1")
    assert result.exit_code == 1
    assert "every run of namespace 'id-1' is finished" in result.stderr
    assert "is finished" in answer(app, "emit", "paid", "--to", "id-1", code=1)["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["emit"],
        ["emit", "paid", "{"],
        ["emit", "paid", "null"],
        ["emit", "paid", "[" * 100_000],
        ["logs"],
        ["logs", "x", "--level", "loud"],
        ["logs", "x", "--limit", "0"],
        ["logs", "x", "--since", "soon"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_wrong_usage_ends_with_2(app: Celery, arguments: list[str]) -> None:
    result = run(app, *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_run_that_nobody_knows_ends_with_1(app: Celery) -> None:
    result = run(app, "logs", "nothing")
    assert result.exit_code == 1
    assert "There is no run 'nothing'" in result.stderr


@pytest.mark.parametrize("arguments", [["logs", "id-1"], ["emit", "paid"]], ids=["logs", "emit"])
def test_an_unreachable_redis_ends_with_1(redis_server: RedisServer, arguments: list[str]) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"
    result = run(app, *arguments)
    assert result.exit_code == 1
    assert "Start it, or correct steps_backend" in result.stderr


# -- a run that waits ---------------------------------------------------------------------------------------------------


def test_a_suspended_run_shows_what_it_waits_for_and_how_far_it_is(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")
    text = run(app, "show", "id-1").output
    lines = [line.split(None, 2) for line in text.splitlines() if line.startswith(("waits for", "progress", "status", "wakes"))]
    assert ["status", "suspended"] in lines
    waits = next(line for line in text.splitlines() if line.startswith("waits for"))
    assert "approved: wait_for_event order.approved until 20" in waits
    assert "UTC (in 23 h 59 min)" in waits
    assert "1 of 3: loaded rows=7, " in text
    records = text[text.index("records") :].splitlines()
    assert records[1].split() == ["STEP", "VERB", "ATTEMPT", "TOOK", "INPUT", "OUTCOME"]
    assert [line.split()[:2] for line in records[2:]] == [["load", "run"], ["short", "sleep"], ["approved", "wait_for_event"]]
    assert "waiting for wait_for_event order.approved until 20" in records[4]


def test_a_suspended_run_is_one_document(app: Celery, approval: Any) -> None:
    deliver(approval, id="id-1")
    shown = answer(app, "show", "id-1")
    (waits,) = shown["run"]["waits"]
    assert (waits["key"], waits["verb"], waits["about"]) == ("approved", "wait_for_event", "order.approved")
    assert datetime.fromisoformat(waits["until"]).tzinfo is not None
    progress = shown["run"]["progress"]
    assert (progress["current"], progress["total"], progress["message"], progress["data"]) == (1, 3, "loaded", {"rows": 7})
    assert [(record["verb"], record["status"]) for record in shown["records"]] == [
        ("run", "done"),
        ("sleep", "done"),
        ("wait_for_event", "waiting"),
    ]
    assert shown["records"][2]["waits_for"] == waits


def test_a_run_without_waits_has_no_column_for_verbs(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)

    deliver(task, id="id-1")
    assert "VERB" not in run(app, "show", "id-1").output


def test_many_waits_are_counted(app: Celery) -> None:
    deliver(app.tasks["shop.many"], 30, id="id-1")
    text = run(app, "show", "id-1").output
    assert sum(line.startswith("waits for") for line in text.splitlines()) == 10
    assert "and 21 more" in text
    assert len(answer(app, "show", "id-1")["run"]["waits"]) == 31


def test_a_list_tells_what_runs_wait_for_and_how_far_they_are(
    app: Celery, approval: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "_PACE", 0.0)
    notes = []

    @app.task(bind=True, base=DurableTask)
    def busy(self: DurableTask) -> None:
        self.step.progress(12)
        notes.append(run(app, "list").output.splitlines()[1])

    deliver(approval, id="id-1")
    deliver(approval, None, id="id-2")
    deliver(busy, id="id-3")
    assert notes[0].endswith("  12")
    _, _, endless, timed = run(app, "list").output.splitlines()
    assert endless.endswith("waits for order.approved")
    assert timed.endswith("waits for order.approved, wakes in 23 h 59 min")


# -- hostile text -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(app: Celery) -> str:
    @app.task(bind=True, base=DurableTask, name=f"task {HOSTILE}")
    def task(self: DurableTask) -> None:
        self.step.log.error(f"{HOSTILE}{LONE}", **{HOSTILE: HOSTILE, "long": "x" * 1_000_000})
        self.step.run(f"key {HOSTILE}", lambda: self.step.log.info("m" * 100_000))
        self.step.progress(1, message=HOSTILE, **{HOSTILE: HOSTILE})
        self.step.wait_for_event(f"wait {HOSTILE}", f"event {HOSTILE}")

    id = f"id {HOSTILE}"
    deliver(task, id=id)
    store = store_of(app)
    store.client.call("XADD", store.keys.namespace(id).log, "*", "1", HOSTILE.encode())
    return id


@pytest.mark.parametrize("command", ["logs", "show", "list"])
def test_hostile_text_reaches_a_pipe_and_a_terminal_as_escapes(app: Celery, hostile: str, command: str) -> None:
    arguments = [command] if command == "list" else [command, hostile]
    result = run(app, *arguments)
    assert result.exit_code == 0
    assert hidden(result.output) == set()
    assert "[bold]loud[/bold] :bomb: \\u202egnp.exe" in result.output
    text = in_a_terminal(app, 140, *arguments)
    assert hidden(text) <= {"\x1b"}
    assert "\x1b[31mred" not in text
    assert len(result.output) < 20_000


def test_hostile_text_reaches_json_as_escapes(app: Celery, hostile: str) -> None:
    result = run(app, "logs", hostile, "--json")
    assert result.stdout.isascii()
    assert hidden(result.stdout) == set()
    bad, long, corrupt = answer(app, "logs", hostile)["lines"]
    assert bad["message"] == f"{HOSTILE}{LONE}"
    assert bad["data"][HOSTILE] == HOSTILE
    assert bad["data"]["long"].endswith("(1,000,002 characters)")
    assert long["message"].endswith("(100,000 characters)")
    assert corrupt["corrupt"]
    run_ = answer(app, "show", hostile)["run"]
    assert run_["progress"]["message"] == HOSTILE
    assert run_["waits"][0]["about"] == f"event {HOSTILE}"
    assert Runs(app).list().runs[0].events == (f"event {HOSTILE}",)
