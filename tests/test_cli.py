"""`celery -A proj steps ...`: tables, JSON, exit codes, and values that nobody should trust."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from rich.cells import cell_len
from runs.outside import crash, make_due, store_of

from celery_steps import DurableTask
from celery_steps.cli import steps
from celery_steps.store.server import Server
from command_line import HOSTILE, LONE, answer, hidden, in_a_terminal, run
from delivering import deliver, make_app
from servers import RedisServer, free_port, server_is_missing

ROOT = Path(__file__).parent.parent


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.fulfil", max_retries=3)
    def fulfil(self: DurableTask, amount: str, end: str = "") -> str:
        self.step.run("price", Decimal(amount), lambda price: {"total": price, "receipt": b"\x00\xff"})
        self.step.run("ship", lambda: ("parcel", 1))
        if end == "retry":
            raise self.retry(countdown=600)
        if end:
            raise ValueError(end)
        return "shipped"

    return app


@pytest.fixture
def fulfil(app: Celery) -> Any:
    return app.tasks["shop.fulfil"]


# -- what they say ------------------------------------------------------------------------------------------------------


def test_a_list_in_a_pipe_has_a_line_for_each_run(app: Celery, fulfil: Any) -> None:
    deliver(fulfil, "1.50", id="id-1", headers={"steps_namespace": "order-42"})
    deliver(fulfil, "1.50", "no card", id="id-2")
    head, bad, fine = run(app, "list").output.splitlines()
    assert head.split() == ["NAMESPACE", "RUN", "TASK", "STATUS", "AGO", "NOTE"]
    assert fine.split()[:4] == ["order-42", "id-1", "shop.fulfil", "succeeded"]
    assert bad.split()[:4] == ["-", "id-2", "shop.fulfil", "failed"]
    assert bad.endswith("ValueError: no card")


def test_a_list_tells_how_to_get_the_next_page(app: Celery, fulfil: Any) -> None:
    for id in ("id-1", "id-2"):
        deliver(fulfil, "1", id=id)
    first = run(app, "list", "--limit", "1").output
    assert "id-2" in first
    assert "id-1" not in first
    cursor = first.split()[-1]
    assert "id-1" in run(app, "list", "--limit", "1", "--cursor", cursor).output
    assert answer(app, "list", "--limit", "1")["cursor"] == cursor


def test_a_list_is_filtered(app: Celery, fulfil: Any) -> None:
    deliver(fulfil, "1", id="id-1")
    deliver(fulfil, "1", "bad", id="id-2")
    deliver(fulfil, "1", "retry", id="id-3")

    def listed(*options: str) -> list[str]:
        return [found["id"] for found in answer(app, "list", *options)["runs"]]

    assert listed("--status", "failed", "--status", "retrying") == ["id-3", "id-2"]
    assert listed("--task", "shop.fulfil", "--since", "1h") == ["id-3", "id-2", "id-1"]
    assert listed("--until", "2020-01-01T00:00:00Z") == []
    assert run(app, "list", "--until", "1h").output == "No runs.\n"


def test_a_run_is_shown_with_its_attempts_and_records(app: Celery, fulfil: Any) -> None:
    crash(app, fulfil, "id-1")
    deliver(fulfil, "1.50", "no card", id="id-1", redelivered=True)
    text = run(app, "show", "id-1").output
    for part in (
        *("shop.fulfil", "failed", "ValueError: no card"),
        *("1  2", "gone@there pid 77", "interrupted"),
        *("price", "Decimal('1.50')", "{'total': Decimal('1.50'), 'receipt': b'\\x00\\xff'}"),
        *("ship", "('parcel', 1)"),
    ):
        assert part in text


def test_a_shown_run_is_one_document(app: Celery, fulfil: Any) -> None:
    deliver(fulfil, "1.50", "no card", id="id-1")
    shown = answer(app, "show", "id-1")
    assert shown["run"]["status"] == "failed"
    assert shown["run"]["error"] == {"type": "builtins.ValueError", "message": "no card"}
    assert datetime.fromisoformat(shown["run"]["created_at"]).tzinfo is not None
    assert [attempt["ended"] for attempt in shown["attempts"]] == ["failed"]
    price, ship = shown["records"]
    assert price["input"] == {"$decimal": "1.50"}
    assert price["result"] == {"total": {"$decimal": "1.50"}, "receipt": {"$bytes": "AP8="}}
    assert ship["result"] == {"$tuple": ["parcel", 1]}


def test_records_that_do_not_stand_are_shown_on_request(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, autoretry_for=(OSError,), default_retry_delay=0)
    def task(self: DurableTask) -> None:
        def storm() -> None:
            raise OSError("storm")

        try:
            self.step.run("sail", storm)
        except OSError:
            self.step.run("note", lambda: 1)
            raise

    deliver(task, id="id-1")
    assert "reopened: OSError: storm" in run(app, "show", "id-1", "--attempts").output
    assert "sail" not in run(app, "show", "id-1").output


def test_stats_are_counted(app: Celery, fulfil: Any) -> None:
    deliver(fulfil, "1")
    deliver(fulfil, "1", "retry", id="later")
    make_due(app, "later", "shop.fulfil", late=90)
    stats = answer(app, "stats")
    assert (stats["runs"]["succeeded"], stats["unfinished"], stats["due"]) == (1, 1, 1)
    assert "1 of this app, 1 due, the first of them for 1 min" in run(app, "stats").output


def test_purge_and_sweep_tell_how_many(app: Celery, fulfil: Any) -> None:
    deliver(fulfil, "1", id="id-1")
    deliver(fulfil, "1", "bad", id="id-2")
    assert run(app, "purge", "id-1").output == "1 run purged.\n"
    assert answer(app, "purge", "--older-than", "0s", "--status", "failed") == {"purged": 1}
    assert run(app, "sweep").output == "0 runs published.\n"
    deliver(fulfil, "1", "retry", id="later")
    make_due(app, "later", "shop.fulfil", late=1)
    assert answer(app, "sweep") == {"published": 1}


def test_the_doctor_ends_with_what_to_do(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(app, "doctor").output.splitlines()[-1] == "to do: turn on appendonly"
    assert answer(app, "doctor")["ready"] is False
    info = Server.info
    monkeypatch.setattr(Server, "info", lambda server: info(server) | {"aof_enabled": "1"})
    assert run(app, "doctor").output.splitlines()[-1] == "ready"
    document = answer(app, "doctor")
    assert (document["ready"], document["do"]) == (True, "")


# -- exit codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "There is no run 'nothing'"),
        (["purge", "nothing"], "There is no run 'nothing'"),
        (["purge", "later"], "only finished runs can be purged"),
        (["show", "shared"], "'shared' has 2 runs"),
        (["list", "--cursor", "!"], "is no cursor"),
    ],
)
def test_what_is_not_found_or_refused_ends_with_1(app: Celery, fulfil: Any, arguments: list[str], message: str) -> None:
    deliver(fulfil, "1", "retry", id="later")
    for id in ("id-1", "id-2"):
        deliver(fulfil, "1", id=id, headers={"steps_namespace": "shared"})
    result = run(app, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert message in answer(app, *arguments, code=1)["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["purge"],
        ["purge", "--status", "running"],
        ["purge", "--older-than", "soon"],
        ["list", "--status", "done"],
        ["list", "--since", "2026-01-01"],
        ["list", "--limit", "0"],
        ["list", "--limit", "ten"],
        ["show"],
        ["shwo"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(app: Celery, arguments: list[str]) -> None:
    result = run(app, *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("command", ["list", "stats", "sweep"])
def test_an_unreachable_redis_ends_with_1_and_no_traceback(redis_server: RedisServer, command: str) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"
    result = run(app, command)
    assert result.exit_code == 1
    assert "Start it, or correct steps_backend" in result.stderr


def test_a_doctor_with_an_error_ends_with_1(redis_server: RedisServer) -> None:
    app = make_app(redis_server, steps_lease_ttl=0.1)
    app.conf.steps_backend = f"redis://127.0.0.1:{free_port()}/0"
    result = run(app, "doctor")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "to do: start it, or correct steps_backend"


# -- hostile text -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(app: Celery) -> str:
    """The task id of a run that puts hostile text wherever it can."""

    @app.task(bind=True, base=DurableTask, name=f"task {HOSTILE}")
    def task(self: DurableTask) -> None:
        self.step.run(f"key {HOSTILE}", {"in": HOSTILE, HOSTILE: [HOSTILE]}, lambda value: value)
        try:
            self.step.run("fail", lambda: fail(HOSTILE))
        except ValueError:
            self.step.run("long", lambda: "x" * 100_000)
        raise ValueError(HOSTILE)

    def fail(text: str) -> None:
        raise ValueError(text)

    deliver(task, id=f"id {HOSTILE}", headers={"steps_namespace": f"ns {HOSTILE}{LONE}"})
    journal = store_of(app).keys.namespace(f"ns {HOSTILE}{LONE}").journal
    store_of(app).client.call("XADD", journal, "*", "step", HOSTILE.encode())
    return f"id {HOSTILE}"


@pytest.mark.parametrize("command", ["list", "show"])
def test_hostile_text_reaches_a_pipe_as_escapes(app: Celery, hostile: str, command: str) -> None:
    result = run(app, command, *([hostile] if command == "show" else []))
    assert result.exit_code == 0
    assert hidden(result.output) == set()
    assert "[bold]loud[/bold] :bomb: \\u202egnp.exe" in result.output
    assert "\\x1b[31mred" in result.output


@pytest.mark.parametrize("command", ["list", "show"])
@pytest.mark.parametrize("columns", [80, 140])
def test_hostile_text_reaches_a_terminal_as_escapes(app: Celery, hostile: str, command: str, columns: int) -> None:
    text = in_a_terminal(app, columns, command, *([hostile] if command == "show" else []))
    # Rich's own colours are all that is left.
    assert hidden(text) <= {"\x1b"}
    assert "\x1b[0m" in text
    assert "\x1b[31mred" not in text
    assert "\x1b[1mloud" not in text


def test_hostile_text_reaches_json_as_escapes(app: Celery, hostile: str) -> None:
    result = run(app, "show", hostile, "--json")
    assert result.stdout.isascii()
    assert hidden(result.stdout) == set()
    shown = json.loads(result.stdout)
    assert shown["run"]["namespace"] == f"ns {HOSTILE}{LONE}"
    assert shown["records"][0]["key"] == f"key {HOSTILE}"
    assert shown["records"][2]["result"] == "x" * 100_000
    assert "corrupt" in shown["records"][3]["corrupt"]


def test_a_refusal_does_not_carry_hostile_text(app: Celery) -> None:
    result = run(app, "show", HOSTILE)
    assert result.exit_code == 1
    assert hidden(result.stderr) == set()


@pytest.mark.parametrize("columns", [80, 140])
def test_no_line_is_wider_than_the_terminal_and_long_values_are_cut(app: Celery, hostile: str, columns: int) -> None:
    text = click.unstyle(in_a_terminal(app, columns, "show", hostile))
    assert max(map(cell_len, text.splitlines())) <= columns
    assert "--full shows them whole" in text
    assert text.count("x") < 1000
    assert "(100,002 characters)" in run(app, "show", hostile).output


def test_a_run_in_full_has_every_value_whole_and_the_traceback(app: Celery, hostile: str) -> None:
    text = run(app, "show", hostile, "--full").output
    assert "x" * 100_000 in text
    assert "Traceback (most recent call last):" in text
    assert "corrupt" in text
    assert hidden(text) == set()
    assert hidden(in_a_terminal(app, 80, "show", hostile, "--full")) <= {"\x1b"}


def test_a_run_in_full_has_what_every_kind_of_record_came_to(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("price", {"net": Decimal("1.50")}, lambda price: {"lines": ["a" * 30] * 4})
        self.step.wait_for_event("yes", "order.approved")

    deliver(task, id="id-1")
    text = run(app, "show", "id-1", "--full", COLUMNS="60").output
    assert "price  done  attempt 1, took " in text
    assert "  input      {'net': Decimal('1.50')}\n" in text
    assert f"  result     {{\n                 'lines': [\n                     '{'a' * 30}'," in text
    assert "yes  waiting  wait_for_event, attempt 1\n" in text
    assert "  waits for  wait_for_event order.approved\n" in text


# -- where they are found -----------------------------------------------------------------------------------------------


def test_celerys_own_command_has_ours(app: Celery, fulfil: Any, entry_points: str, tmp_path: Path) -> None:
    deliver(fulfil, "1", id="id-1")
    (tmp_path / "proj.py").write_text(
        f"from celery import Celery\napp = Celery('proj')\napp.conf.steps_backend = {app.conf.steps_backend!r}\n"
    )
    path = os.pathsep.join((entry_points, str(ROOT), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "celery", "-A", "proj", "steps", "list", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [found["id"] for found in json.loads(done.stdout)["runs"]] == ["id-1"]


def test_the_command_module_imports_nothing_that_costs() -> None:
    code = "import sys, celery_steps.cli; print(sorted({'redis', 'rich', 'celery', 'celery_steps.task'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_without_an_app_the_error_says_how_to_name_one() -> None:
    result = run(Celery("default", set_as_current=False), "list")
    assert result.exit_code == 1
    assert "celery -A proj steps" in result.stderr


# -- progress, files, colours, options ----------------------------------------------------------------------------------


def test_progress_in_numbers_that_python_does_not_write_is_shown(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_steps.engine.progress._check_number", lambda name, value: None)  # as versions before did
    shown = []

    @app.task(bind=True, base=DurableTask, name="shop.far")
    def far(self: DurableTask) -> None:
        self.step.progress(10**5000, 10**5001)
        shown.extend(run(app, *command) for command in (("list",), ("show", "far"), ("show", "far", "--json")))

    deliver(far, id="far")
    assert [result.exit_code for result in shown] == [0, 0, 0], shown
    assert " of {" in shown[1].output


def test_an_export_into_a_file_that_others_read_is_for_its_owner_alone(app: Celery, fulfil: Any, tmp_path: Path) -> None:
    deliver(fulfil, "1.50", id="id-1")
    file = tmp_path / "run.json"
    file.write_text("x" * 100_000)
    file.chmod(0o644)
    assert run(app, "export", "id-1", "--output", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["run"]["id"] == "id-1"


@pytest.mark.parametrize(("flags", "colored"), [([], False), (["--force-color"], True), (["--force-color", "--no-color"], False)])
def test_djangos_command_has_colours_where_it_is_told(
    app: Celery, fulfil: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], colored: bool
) -> None:
    if find_spec("django") is None:
        server_is_missing("django")
    from celery_steps.management.commands import steps as manage

    deliver(fulfil, "1.50", id="id-1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(manage, "_app", lambda: app)
    manage.Command().run_from_argv(["manage.py", "steps", "list", *flags])
    assert ("\x1b[32m" in capsys.readouterr().out) == colored


@pytest.mark.parametrize("name", sorted(set(steps.commands) - {"web"}))
def test_the_reference_names_each_option(name: str) -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    documented = " ".join(re.findall(rf"`{name}(?= |`)[^`]*`", reference.partition("## `celery -A proj steps …`")[2]))
    assert documented
    for parameter in steps.commands[name].params:
        option = parameter.opts[0]
        if option.startswith("--") and option != "--json":  # which all of them have
            assert option in documented
