"""`steps timeline` and `steps graph`: pictures of journals whose times are known."""

from __future__ import annotations

from typing import Any

import click
import pytest
from celery import Celery
from rich.cells import cell_len
from runs.journals import Written

from celery_steps import DurableTask
from celery_steps.cli import bars, flow
from celery_steps.cli.axis import Axis
from celery_steps.engine import entries as fmt
from celery_steps.store.keys import RunId
from command_line import HOSTILE, answer, hidden, in_a_terminal, run
from delivering import deliver, make_app
from servers import RedisServer

HOUR = 3_601_000


def picture(drawn: Any) -> list[str]:
    return [line.plain.rstrip() for line in drawn]


def drawn(journal: Written, width: int, ascii_only: bool = False, **timeline: Any) -> list[str]:
    """The rows of a timeline, without head and legend."""
    return picture(bars.draw(journal.timeline(**timeline), width, ascii_only))[2:-1]


def tree(journal: Written, width: int = 80) -> list[str]:
    return picture(flow.tree(journal.timeline(), width, False))


@pytest.fixture
def order() -> Written:
    """A step, three branches, a long sleep, a step, and a wait that goes on."""
    journal = Written().attempt(0).step("load", 0, 200).step("pay", 200, 700).step("pack", 200, 400).step("note", 201, 900)
    journal.wait("cool-off", began=1000).suspend()
    journal.attempt(HOUR).step("cool-off", HOUR, HOUR, verb="sleep").step("ship", HOUR, HOUR + 300)
    return journal.wait("signed", "wait_for_event", "parcel.signed", began=HOUR + 300).suspend()


# -- the time axis ------------------------------------------------------------------------------------------------------


def test_steps_are_bars_on_one_axis_and_long_rests_are_cut_short(order: Written) -> None:
    assert drawn(order, 80, now=2 * HOUR) == [
        "                              0                         +1 h",
        "                              ┬─────────────────────╱╱──┬─────────╱╱───",
        "attempts                      1──────────────────       2──────",
        "load                          ████                                       200 ms",
        "pay                               ██████████                             500 ms",
        "pack                              ████                                   200 ms",
        "note                              ██████████████                         699 ms",
        "cool-off (sleep)                                ░░░░╱╱░░                 1 h",
        "ship                                                    ██████           300 ms",
        "signed (event parcel.signed)                                  ░░░░╱╱░░▶  waiting",
    ]


def test_a_terminal_without_such_characters_gets_others(order: Written) -> None:
    rows = drawn(order, 60, ascii_only=True, now=2 * HOUR)
    assert all(row.replace("…", "").isascii() for row in rows)
    assert rows[3].split() == ["load", "##", "200", "ms"]
    assert rows[-1].split()[-1] == "waiting"


def test_rows_say_how_a_step_ended_where_that_is_not_well() -> None:
    journal = (
        Written().attempt(0).step("hotel", 0, 10).tried("car", 10, 30, due=1000).add("rollback", b"\x93\x01\xa1r\xa1f", at=40)
    )
    journal.add("undo", fmt.pack_undo(("hotel", 1), True, b"", 50, 20)).add("step", b"\xc1")
    words = {row.split()[0]: row.split()[-3:] for row in drawn(journal, 80)[3:]}
    assert words["hotel"][-3:] == ["undone", "10", "ms"]
    assert words["car"][-3:] == ["raised", "20", "ms"]
    assert words["undo"][-2:] == ["20", "ms"]
    assert words["?"][-1] == "corrupt"


def test_steps_of_other_runs_of_the_namespace_are_named() -> None:
    journal = Written().attempt(0).step("load", 0, 10).attempt(20, run=RunId("shop.other", "id-2")).step("audit", 21, 30)
    assert [row.split("  ")[0] for row in drawn(journal, 80)[3:]] == ["load", "audit [id-2]"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    journal = Written().attempt(0)
    for i in range(300):
        journal.step(f"schlüssel-支払い-{'x' * (i % 50)}", i * 997, i * 997 + i * i, sequence=i + 1)
        if i % 20 == 0:
            journal.attempt(i * 997 + 500)
    assert max(map(cell_len, drawn(journal, width)[:-1])) <= width
    assert max(map(cell_len, tree(journal, width))) <= width


@pytest.mark.parametrize(
    ("start", "end", "busy"),
    [(0, 0, []), (0, 1, [(0, 0)]), (0, 10**12, [(5, 6), (10**9, 10**9)]), (0, 100, [(0, 100)]), (5, 9, [(0, 100)])],
)
def test_every_moment_has_a_column_and_columns_rise(start: float, end: float, busy: list[tuple[float, float]]) -> None:
    axis = Axis(start, end, busy, 50)
    columns = [axis.column(start + (end - start) * part / 100) for part in range(-10, 111)]
    assert columns == sorted(columns)
    assert 0 <= columns[0] <= columns[-1] < 50
    assert axis.labels()[0] == (0, "0")


# -- the flow graph -----------------------------------------------------------------------------------------------------


def test_what_ran_side_by_side_is_branched_off(order: Written) -> None:
    assert tree(order) == [
        "● load                          done, 200 ms",
        "├─ ● pay                        done, 500 ms",
        "├─ ● pack                       done, 200 ms",
        "╰─ ● note                       done, 699 ms",
        "● cool-off (sleep)              done, 1 h",
        "● ship                          done, 300 ms",
        "○ signed (event parcel.signed)  waiting",
    ]


def test_what_follows_in_a_branch_hangs_from_it() -> None:
    journal = Written().attempt(0).step("long", 0, 100).step("a", 1, 10).step("b", 2, 20).step("c", 30, 40).step("d", 50, 60)
    assert [line.split("  done")[0].rstrip() for line in tree(journal)] == [
        "├─ ● long",
        "├─ ● a",
        "╰─ ● b",
        "   ╰─ ● c",
        "      ╰─ ● d",
    ]
    assert tree(journal)[3].endswith("after a too")


def test_many_of_one_key_side_by_side_are_one_node() -> None:
    journal = Written().attempt(0).step("load", 0, 5)
    for i in range(500):
        journal.step("thumb", 5 + i, 20 + i, sequence=i + 1)
    journal.step("mail", 5, 600).step("end", 600, 700)
    assert tree(journal) == [
        "● load            done, 5 ms",
        "├─ ● thumb × 500  500 done, 514 ms",
        "╰─ ● mail         done, 595 ms",
        "● end             done, 100 ms",
    ]
    assert len(list(flow.mermaid(journal.timeline()))) == 1 + 4 + 4


def test_mermaid_is_a_flowchart(order: Written) -> None:
    assert list(flow.mermaid(order.timeline())) == [
        "flowchart TD",
        '  n0["load<br/>done, 200 ms"]',
        '  n1["pay<br/>done, 500 ms"]',
        '  n2["pack<br/>done, 200 ms"]',
        '  n3["note<br/>done, 699 ms"]',
        '  n4["cool-off #40;sleep#41;<br/>done, 1 h"]',
        '  n5["ship<br/>done, 300 ms"]',
        '  n6["signed #40;event parcel.signed#41;<br/>waiting"]:::waiting',
        *("  n0 --> n1", "  n0 --> n2", "  n0 --> n3"),
        *("  n1 --> n4", "  n2 --> n4", "  n3 --> n4", "  n4 --> n5", "  n5 --> n6"),
        "  classDef waiting fill:#def,stroke:#36c,stroke-dasharray:4",
    ]


def test_a_key_cannot_break_out_of_mermaid() -> None:
    journal = Written().attempt(0).step('"]; click n0 "javascript:alert(1)" %%{init}%% <script>\n`x`', 0, 5)
    _, node = flow.mermaid(journal.timeline())
    label = node.removeprefix('  n0["').removesuffix('"]')
    assert not set('"`<>[](){}%') & set(label.replace("<br/>", ""))


# -- the commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(redis_server: RedisServer) -> Celery:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.fulfil")
    def fulfil(self: DurableTask, key: str = "load") -> None:
        self.step.run(key, lambda: 1)
        self.step.wait_for_event("signed", key)

    return app


def test_a_timeline_and_a_graph_are_printed(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], id="id-1")
    head, *rows = run(app, "timeline", "id-1").output.splitlines()
    assert head.startswith("id-1  suspended, ")
    assert [row.split()[0] for row in rows[3:6]] == ["attempts", "load", "signed"]
    assert [line[:8].rstrip() for line in run(app, "graph", "id-1").output.splitlines()] == ["● load", "○ signed"]
    assert run(app, "graph", "id-1", "--mermaid").output.startswith("flowchart TD\n  n0[")


def test_both_are_one_document_with_the_edges(app: Celery) -> None:
    deliver(app.tasks["shop.fulfil"], id="id-1")
    document = answer(app, "timeline", "id-1")
    assert (document["run_id"], document["status"], document["ended_at"]) == ("id-1", "suspended", None)
    assert [(span["key"], span["after"], span["ended_at"] is None) for span in document["spans"]] == [
        ("load", [], False),
        ("signed", [0], True),
    ]
    assert document["attempts"][0]["ended"] == "suspended"
    assert answer(app, "graph", "id-1")["spans"] == document["spans"]


@pytest.mark.parametrize("command", ["timeline", "graph"])
def test_who_asks_for_nothing_known_is_told(app: Celery, command: str) -> None:
    assert "There is no run 'nobody'" in answer(app, command, "nobody", code=1)["error"]


@pytest.mark.parametrize("command", [["timeline"], ["graph"], ["graph", "--mermaid"]], ids=" ".join)
def test_hostile_text_reaches_a_terminal_as_escapes(app: Celery, command: list[str]) -> None:
    deliver(app.tasks["shop.fulfil"], HOSTILE, id=f"id {HOSTILE}", headers={"steps_namespace": f"ns {HOSTILE}"})
    text = in_a_terminal(app, 200, *command, f"ns {HOSTILE}")
    assert hidden(text) <= {"\x1b"}
    assert "\x1b[31mred" not in text
    assert hidden(click.unstyle(text)) == set()
    assert hidden(run(app, *command, f"ns {HOSTILE}").output) == set()
