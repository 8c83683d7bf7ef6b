"""The flow graph: what is folded into one node, and where nodes and lines are drawn."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some
from runs.journals import Written

from celery_steps.engine import entries as fmt
from celery_steps.timeline import Timeline
from celery_steps.web.flow import Node, flow_of
from celery_steps.web.graph import HEIGHT, WIDTH, fitted, graph_of
from celery_steps.web.run_page import title_of


def titles(timeline: Timeline) -> list[str]:
    return [title_of(node) for node in flow_of(timeline).nodes]


def after(timeline: Timeline) -> dict[str, list[str]]:
    nodes = flow_of(timeline).nodes
    return {title_of(node): [title_of(nodes[i]) for i in node.after] for node in nodes}


def one_after_the_other(keys: list[str]) -> Timeline:
    journal = Written().attempt(0)
    for i, key in enumerate(keys):
        journal.step(key, 10 * i, 10 * i + 9, sequence=keys[: i + 1].count(key))
    return journal.timeline()


# -- folding ------------------------------------------------------------------------------------------------------------


def test_a_step_that_an_attempt_left_and_another_did_is_one_node() -> None:
    journal = Written().attempt(0).step("load", 0, 9)
    journal.add("start", fmt.pack_start(("charge", 1))).attempt(500).step("charge", 510, 600).step("ship", 610, 700)
    timeline = journal.timeline()
    assert [span.key for span in timeline.spans] == ["load", "charge", "charge", "ship"]
    assert after(timeline) == {"load": [], "charge": ["load"], "ship": ["charge"]}


def test_three_steps_with_one_key_are_three_nodes_and_four_are_one() -> None:
    assert titles(one_after_the_other(["load", *["page"] * 3, "end"])) == ["load", "page", "page (2)", "page (3)", "end"]
    assert titles(one_after_the_other(["load", *["page"] * 4, "end"])) == ["load", "page × 4", "end"]


def test_a_thousand_branches_with_one_key_are_one_node_between_what_was_before_and_after() -> None:
    journal = Written().attempt(0).step("split", 0, 9)
    for n in range(1, 1001):
        journal.step("part", 10, 500 + n, sequence=n)
    assert after(journal.step("join", 2000, 2100).timeline()) == {
        "split": [],
        "part × 1,000": ["split"],
        "join": ["part × 1,000"],
    }


def test_branches_of_which_one_failed_show_which() -> None:
    journal = Written().attempt(0).step("split", 0, 9)
    for n in range(1, 7):
        journal.step("part", 10, 500 + n, sequence=n)
    journal.add("retry", fmt.pack_retry("run", 0, [], [("part", 7)]))
    assert titles(journal.timeline()) == ["split", "part × 6", "part (7)"]


def test_of_a_long_chain_the_middle_is_one_node() -> None:
    shown = titles(one_after_the_other([f"{'ab'[i % 2]}{i}" for i in range(2000)]))
    assert shown == ["a0", "b1", "a2", "b3", "a4", "1,990 steps", "b1995", "a1996", "b1997", "a1998", "b1999"]


def test_what_cannot_be_folded_is_cut_at_its_beginning_and_counted() -> None:
    journal = Written().attempt(0)
    for i in range(500):  # pairs that overlap
        journal.step(f"a{i}", 10 * i, 10 * i + 8).step(f"b{i}", 10 * i + 1, 10 * i + 9)
    flow = flow_of(journal.timeline())
    assert (len(flow.nodes), flow.left_out) == (300, 700)
    assert title_of(flow.nodes[-1]) == "b499"


def test_a_node_of_many_has_the_gravest_status() -> None:
    journal = Written().attempt(0)
    for n in range(1, 5):
        journal.step("page", 10 * n, 10 * n + 9, sequence=n)
    done = flow_of(journal.timeline()).nodes[0]
    spans = tuple(span for span in done.spans)
    assert done.status == "done"
    failed = Node((*spans[:2], type(spans[2])(**{**vars(spans[2]), "status": "failed"}), spans[3]), ())
    assert failed.status == "failed"


# -- drawing ------------------------------------------------------------------------------------------------------------


def test_what_runs_side_by_side_is_drawn_side_by_side() -> None:
    journal = Written().attempt(0).step("load", 0, 9).step("left", 10, 60).step("right", 20, 50).step("join", 70, 80)
    graph = graph_of(flow_of(journal.timeline()))
    load, left, right, join = graph.boxes
    assert load.y < left.y == right.y < join.y
    assert load.x == left.x == join.x < right.x
    assert len(graph.lines) == 4


def test_ways_from_many_to_many_are_shared() -> None:
    journal = Written().attempt(0)
    for n in range(20):
        journal.step(f"a{n}", n, 100 + n)
    for n in range(20):
        journal.step(f"b{n}", 200 + n, 300 + n)
    assert len(graph_of(flow_of(journal.timeline())).lines) == 39


def test_a_line_past_a_box_goes_round_it() -> None:
    journal = Written().attempt(0).step("long", 0, 100).step("short", 1, 10).step("next", 11, 200).step("end", 210, 220)
    graph = graph_of(flow_of(journal.timeline()))
    boxes = {box.node.last.key: box for box in graph.boxes}
    (line,) = [line for line in graph.lines if line.startswith(f"M{boxes['long'].x + WIDTH // 2} {boxes['long'].y + HEIGHT}")]
    assert line.endswith(f"L{boxes['end'].x + WIDTH // 2} {boxes['end'].y}")


steps = some.lists(some.tuples(some.integers(0, 60), some.integers(0, 40), some.sampled_from("abc")), max_size=40)


@given(steps)
def test_no_boxes_overlap_and_every_line_leads_down(made: list[tuple[int, int, str]]) -> None:
    journal = Written().attempt(0)
    for n, (began, lasts, key) in enumerate(made):
        journal.step(key, began, began + lasts, sequence=n + 1)
    timeline = journal.timeline()
    flow = flow_of(timeline)
    assert sorted(span.sequence for node in flow.nodes for span in node.spans) == list(range(1, len(made) + 1))
    graph = graph_of(flow)
    assert len({(box.x, box.y) for box in graph.boxes}) == len(flow.nodes)
    for box in graph.boxes:
        assert 0 <= box.x <= graph.width - WIDTH
        assert 0 <= box.y <= graph.height - HEIGHT
    for line in graph.lines:
        heights = [float(y) for y in re.findall(r"[ML]\S+ ([\d.]+)", line)]
        assert all(upper <= lower for upper, lower in pairwise(heights))


def test_a_text_is_cut_to_the_room_that_it_has() -> None:
    assert fitted("short", 10) == "short"
    assert fitted("a" * 11, 10) == "a" * 9 + "…"
    assert fitted("注文の支払い", 10) == "注文の支…"
