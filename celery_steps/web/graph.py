"""The flow graph as boxes and lines: down in the order of the flow, to the right what runs side by side."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from celery_steps.web.flow import Flow, Node

WIDTH, HEIGHT = 224, 52
_BESIDE, _BELOW, _MARGIN, _CORNER = 32, 36, 12, 8
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node and where it is drawn."""

    node: Node
    x: int
    y: int


@dataclass(frozen=True)
class Graph:
    """A drawing of `width` by `height` pixels."""

    boxes: tuple[Box, ...]
    lines: tuple[str, ...]  # as in the d of an SVG path; they lead downwards
    width: int
    height: int
    left_out: int  # spans that are not drawn


def graph_of(flow: Flow) -> Graph:
    nodes = flow.nodes
    rows = _rows(nodes)
    columns = _columns(nodes, rows)
    boxes = tuple(
        Box(node, _MARGIN + column * (WIDTH + _BESIDE), _MARGIN + row * (HEIGHT + _BELOW))
        for node, row, column in zip(nodes, rows, columns, strict=True)
    )
    return Graph(
        boxes,
        tuple(_lines(nodes, rows, columns, boxes)),
        # Lines that go round a box do so on its right.
        max((box.x for box in boxes), default=0) + WIDTH + _BESIDE,
        max((box.y for box in boxes), default=0) + HEIGHT + _MARGIN,
        flow.left_out,
    )


def _rows(nodes: Sequence[Node]) -> list[int]:
    rows: list[int] = []
    for node in nodes:
        rows.append(1 + max((rows[i] for i in node.after), default=-1))
    return rows


def _columns(nodes: Sequence[Node], rows: Sequence[int]) -> list[int]:
    """As lanes of the timeline, so that nothing jumps while the run goes on; lanes that folding has emptied are left out."""
    taken: set[tuple[int, int]] = set()
    wanted = []
    for node, row in zip(nodes, rows, strict=True):
        lane = min(span.lane for span in node.spans)
        while (row, lane) in taken:
            lane += 1
        taken.add((row, lane))
        wanted.append(lane)
    place = {lane: i for i, lane in enumerate(sorted(set(wanted)))}
    return [place[lane] for lane in wanted]


def _lines(nodes: Sequence[Node], rows: Sequence[int], columns: Sequence[int], boxes: Sequence[Box]) -> list[str]:
    taken = set(zip(rows, columns, strict=True))
    drawn: set[tuple[int, ...]] = set()
    lines: list[str] = []
    for i, node in enumerate(nodes):
        # Nodes that follow the same ones share the way to them: n + m lines instead of n times m.
        befores = node.after[:1] if node.after in drawn else node.after
        drawn.add(node.after)
        for before in befores:
            between = range(rows[before] + 1, rows[i])
            blocked = any((row, columns[before]) in taken for row in between)
            lines.append(_line(boxes[before], boxes[i], blocked))
    return lines


def _line(start: Box, end: Box, blocked: bool) -> str:
    x, y = start.x + WIDTH // 2, start.y + HEIGHT
    to, top = end.x + WIDTH // 2, end.y
    above = top - _BELOW // 2
    if blocked:
        aside, below = start.x + WIDTH + _BESIDE // 2, y + _BELOW // 2
        return _rounded([(x, y), (x, below), (aside, below), (aside, above), (to, above), (to, top)])
    return _rounded([(x, y), (x, above), (to, above), (to, top)] if x != to else [(x, y), (to, top)])


def _rounded(points: list[Point]) -> str:
    """A path through the points, its corners round."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (ax, ay), (bx, by) = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{ax:g} {ay:g}Q{corner[0]:g} {corner[1]:g} {bx:g} {by:g}")
    parts.append(f"L{points[-1][0]:g} {points[-1][1]:g}")
    return "".join(parts)


def _towards(corner: Point, point: Point) -> Point:
    dx, dy = point[0] - corner[0], point[1] - corner[1]
    far = abs(dx) + abs(dy)  # one of them is 0
    step = min(_CORNER, far / 2) / far if far else 0
    return corner[0] + dx * step, corner[1] + dy * step


def fitted(text: str, most: int = 26) -> str:
    """A text cut to about so many letters' width: an SVG cuts none."""
    room = most
    for i, letter in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return f"{text[: max(0, i - 1)]}…"
    return text
