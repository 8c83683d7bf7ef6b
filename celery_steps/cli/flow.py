"""`steps graph`: what followed what, as a tree in the terminal, or as Mermaid text for a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from celery_steps.cli.bars import style_of, title, took
from celery_steps.escape import safe
from celery_steps.timeline import Span, Timeline

#: Spans of one key that ran side by side are one node from so many on.
_MANY = 4
_DRAWN, _IN_ASCII = ("├─ ", "╰─ ", "│  ", "● ", "○ "), ("|- ", "`- ", "|  ", "* ", "o ")
#: Columns of indentation, at most.
_DEEPEST = 24
#: Mermaid's own escapes of what it would take for its syntax, or for HTML.
_ENTITIES = {ord(c): f"#{ord(c)};" for c in "#\"'`<>&\\[](){}|;*_~$%=@/"}
_CLASSES = {
    "failed": "fill:#fdd,stroke:#c33", "raised": "fill:#fdd,stroke:#c33,stroke-dasharray:4", "corrupt": "fill:#fdd,stroke:#c33",
    "waiting": "fill:#def,stroke:#36c,stroke-dasharray:4", "begun": "stroke-dasharray:4", "undone": "fill:#ffd,stroke:#a80",
    "reopened": "stroke-dasharray:4", "replaced": "stroke-dasharray:4",
}  # fmt: skip


@dataclass
class Node:
    """A span, or several of one key that ran side by side."""

    spans: list[Span]
    after: list[int] = field(default_factory=list)  # other nodes, by their index

    @property
    def worst(self) -> Span:
        """The one that tells most about all of them."""
        return next((span for span in self.spans if span.status != "done"), self.spans[0])

    @property
    def name(self) -> str:
        return safe(title(self.spans[0]) if len(self.spans) == 1 else f"{self.spans[0].key} × {len(self.spans):,}")

    @property
    def note(self) -> str:
        """How it ended, and how long that took."""
        states = [span.status for span in self.spans]
        counts = {status: states.count(status) for status in dict.fromkeys(states)}
        told = ", ".join(status if len(states) == 1 else f"{count:,} {status}" for status, count in counts.items())
        ends = [span.ended_at for span in self.spans if span.ended_at is not None]
        if len(ends) < len(states) or self.worst.status in ("begun", "corrupt"):
            return told
        return f"{told}, {took(min(span.began_at for span in self.spans), max(ends))}"


def blocks(spans: Sequence[Span]) -> Iterator[list[int]]:
    """Indexes of spans that hang together in time: each block was over before the next one began."""
    block: list[int] = []
    over_by = None
    for i, span in enumerate(spans):
        if block and over_by is not None and over_by <= span.began_at:
            yield block
            block = []
        end = span.ended_at
        over_by = end if not block else None if over_by is None or end is None else max(over_by, end)
        block.append(i)
    if block:
        yield block


def nodes_of(spans: Sequence[Span]) -> list[list[Node]]:
    """The nodes of each block. A node's `after` counts through all of them."""
    found: list[list[Node]] = []
    node_of: dict[int, int] = {}
    count = 0
    for block in blocks(spans):
        keys: dict[tuple[str, str], list[int]] = {}
        for i in block:
            keys.setdefault((spans[i].key, spans[i].verb), []).append(i)
        nodes: list[Node] = []
        numbers: dict[tuple[str, str], int] = {}
        for i in block:
            what = (spans[i].key, spans[i].verb)
            together = len(keys[what]) >= _MANY
            if together and what in numbers:
                continue
            members = keys[what] if together else [i]
            numbers[what] = count
            node_of.update(dict.fromkeys(members, count))
            nodes.append(Node([spans[j] for j in members]))
            count += 1
        found.append(nodes)
    every = [node for nodes in found for node in nodes]
    for number, node in enumerate(every):
        befores = {id(span.after): span.after for span in node.spans}.values()  # wide blocks share it
        node.after = sorted({node_of[i] for before in befores for i in before} - {number})
    return found


def tree(timeline: Timeline, width: int, ascii_only: bool) -> Iterator[Text]:
    """One line a node, top to bottom: what ran side by side is branched off, what follows in a branch is under it."""
    signs = _IN_ASCII if ascii_only else _DRAWN
    first = 0
    lines: list[tuple[str, Node, str]] = []  # indented by, what, what else it follows
    for nodes in nodes_of(timeline.spans):
        lines += [("", nodes[0], "")] if len(nodes) == 1 else _branches(nodes, first, signs)
        first += len(nodes)
    left = min(max(cell_len(indent + node.name) for indent, node, _ in lines) + 2, max(width, 40) * 2 // 3)
    for indent, node, also in lines:
        yield _line(indent, node, signs, left, width, also)


def _branches(nodes: list[Node], first: int, signs: Sequence[str]) -> Iterator[tuple[str, Node, str]]:
    """A node hangs from the last of those in its block that it follows; the others are named."""
    under: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        inside = [before - first for before in node.after if first <= before < first + i]
        under.setdefault(max(inside, default=-1), []).append(i)
    stack = [(i, "", i == under[-1][-1]) for i in reversed(under[-1])]
    while stack:
        i, indent, last = stack.pop()
        yield indent + signs[1 if last else 0], nodes[i], _also(nodes, i, first)
        below = under.get(i, [])
        deeper = indent + ("   " if last else signs[2])
        if len(deeper) > _DEEPEST:  # a long chain in a branch
            deeper = indent
        stack += [(child, deeper, child == below[-1]) for child in reversed(below)]


def _also(nodes: list[Node], i: int, first: int) -> str:
    inside = [before - first for before in nodes[i].after if first <= before < first + i]
    return ", ".join(nodes[before].name for before in inside[:-1])


def _line(indent: str, node: Node, signs: Sequence[str], left: int, width: int, also: str) -> Text:
    style = style_of(node.worst)
    text = Text.assemble((indent, "dim"), (signs[4 if node.worst.ended_at is None else 3], style), node.name)
    text.truncate(left, overflow="ellipsis", pad=True)
    text.append(f"  {node.note}", style)
    if also:
        text.append(f"  after {also} too", "dim")
    text.truncate(max(width, 40), overflow="ellipsis")
    return text


def mermaid(timeline: Timeline) -> Iterator[str]:
    """A flowchart: GitHub, GitLab and many documentation tools draw it."""
    nodes = [node for block in nodes_of(timeline.spans) for node in block]
    yield "flowchart TD"
    for i, node in enumerate(nodes):
        yield f'  n{i}["{node.name.translate(_ENTITIES)}<br/>{node.note.translate(_ENTITIES)}"]{_class(node)}'
    for i, node in enumerate(nodes):
        for before in node.after:
            yield f"  n{before} --> n{i}"
    used = {node.worst.status for node in nodes}
    yield from (f"  classDef {name} {style}" for name, style in _CLASSES.items() if name in used)


def _class(node: Node) -> str:
    return f":::{node.worst.status}" if node.worst.status in _CLASSES else ""
