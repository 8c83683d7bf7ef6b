"""A timeline folded into what a picture can show: thousands of alike steps are one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from celery_steps.timeline import Span, Timeline

#: So many steps with one key, one after the other or side by side, are one node.
_ALIKE = 4
#: In a picture with more nodes than this, the middle of a chain is one node; of its ends so many stay.
_MANY, _ENDS = 120, 5
#: No picture has more nodes.
_MOST = 300


@dataclass(frozen=True)
class Node:
    """Spans that are drawn as one: the tries of a step, or many steps."""

    spans: tuple[Span, ...]
    after: tuple[int, ...]  # indexes of nodes

    @property
    def last(self) -> Span:
        return self.spans[-1]

    @property
    def steps(self) -> int:
        return len({(span.key, span.sequence) for span in self.spans})

    @property
    def keys(self) -> int:
        return len({span.key for span in self.spans})

    @property
    def status(self) -> str:
        """Of the last try; of many steps, that of the one that a person should look at."""
        return self.last.status if self.steps == 1 else max((span.status for span in self.spans), key=_gravity)

    @property
    def goes_on(self) -> bool:
        return any(span.ended_at is None for span in self.spans)


#: What a person should look at comes last.
_GRAVITY = (
    "done",
    "undone",
    "replaced",
    "reopened",
    "raised",
    "waiting",
    "running",
    "begun",
    "interrupted",
    "failed",
    "in_doubt",
)


def _gravity(status: str) -> int:
    return _GRAVITY.index(status) if status in _GRAVITY else len(_GRAVITY)


@dataclass(frozen=True)
class Flow:
    """Nodes in the order in which they began; `left_out` spans were before them."""

    nodes: tuple[Node, ...]
    left_out: int


def flow_of(timeline: Timeline) -> Flow:
    nodes = [Node((span,), span.after) for span in timeline.spans]
    nodes = _joined(nodes, _chains(nodes, _is_another_try), 2)
    nodes = _joined(nodes, _chains(nodes, _is_alike), _ALIKE)
    nodes = _joined(nodes, _siblings(nodes), _ALIKE)
    if len(nodes) > _MANY:
        chains = _chains(nodes, lambda one, other: True)
        nodes = _joined(nodes, [chain[_ENDS:-_ENDS] for chain in chains if len(chain) > 2 * _ENDS + 1], 2)
    cut = max(0, len(nodes) - _MOST)
    kept = [Node(node.spans, tuple(i - cut for i in node.after if i >= cut)) for node in nodes[cut:]]
    return Flow(tuple(kept), sum(len(node.spans) for node in nodes[:cut]))


def _is_another_try(one: Node, other: Node) -> bool:
    first, second = one.last, other.last
    return (first.key, first.sequence) == (second.key, second.sequence) and (first.verb == "undo") == (second.verb == "undo")


def _is_alike(one: Node, other: Node) -> bool:
    return _likeness(one) == _likeness(other)


def _likeness(node: Node) -> tuple[str, str, str]:
    return node.last.key, node.last.verb, node.last.status


def _chains(nodes: Sequence[Node], fits: Callable[[Node, Node], bool]) -> list[list[int]]:
    """Nodes each of which is followed by the next one only, and follows only the one before."""
    followers = Counter(i for node in nodes for i in node.after)
    chains: list[list[int]] = []
    place: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        before = node.after[0] if len(node.after) == 1 else -1
        if before >= 0 and followers[before] == 1 and fits(nodes[before], node):
            chain = place[before]
        else:
            chain = []
            chains.append(chain)
        chain.append(i)
        place[i] = chain
    return chains


def _siblings(nodes: Sequence[Node]) -> Iterable[list[int]]:
    """Nodes that are alike, follow the same nodes, and are followed by the same."""
    followers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for before in node.after:
            followers[before].append(i)
    found: dict[object, list[int]] = {}
    for i, node in enumerate(nodes):
        found.setdefault((_likeness(node), node.after, tuple(followers[i])), []).append(i)
    return found.values()


def _joined(nodes: Sequence[Node], groups: Iterable[list[int]], least: int) -> list[Node]:
    """The nodes of each group, if it has so many, as one: at the place of its first."""
    first = {i: group[0] for group in groups if len(group) >= least for i in group}
    if not first:
        return list(nodes)
    members: dict[int, list[int]] = {}
    for i in range(len(nodes)):
        members.setdefault(first.get(i, i), []).append(i)
    new = {i: place for place, group in enumerate(members.values()) for i in group}
    made: list[Node] = []
    for place, group in enumerate(members.values()):
        spans = tuple(span for i in group for span in nodes[i].spans)
        made.append(Node(spans, tuple(sorted({new[i] for one in group for i in nodes[one].after} - {place}))))
    return made
