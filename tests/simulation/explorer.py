"""Walks through every state of a world, breadth first: so the first way to a wrong state is a shortest one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Kind(Enum):
    """What a move stands for: somebody acts, time passes, or something goes wrong."""

    STEP = 1
    TIME = 2
    FAULT = 3


class Move(NamedTuple, Generic[S]):
    label: str
    kind: Kind
    state: S
    wrong: tuple[str, ...] = ()  # what must never happen, and did


@dataclass
class Exploration(Generic[S]):
    """What was found: how many states, and the shortest way to each violation."""

    states: int = 0
    complete: bool = True
    violations: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.states:,} states{'' if self.complete else ' (not all)'}"]
        for what, way in self.violations.items():
            lines += [f"{what}:", *(f"  {n:2} {label}" for n, label in enumerate(way, 1))]
        return "\n".join(lines)


class _Walk(Generic[S]):
    def __init__(self, start: S) -> None:
        self.states = [start]
        self.numbers: dict[S, int] = {start: 0}
        self.parents: list[tuple[int, str]] = [(-1, "")]
        self.willing: list[list[int]] = []  # where each state gets to without a fault
        self.busy: list[list[int]] = []  # the same without time

    def way(self, number: int) -> list[str]:
        labels = []
        while number:
            number, label = self.parents[number]
            labels.append(label)
        return labels[::-1]

    def reach(self, origin: int, move: Move[S]) -> int:
        number = self.numbers.setdefault(move.state, len(self.states))
        if number == len(self.states):
            self.states.append(move.state)
            self.parents.append((origin, move.label))
        return number


def explore(
    start: S,
    moves: Callable[[S], Iterable[Move[S]]],
    wrong: Callable[[S], Iterable[str]],
    at_rest: Callable[[S], bool],
    *,
    limit: int = 1_000_000,
    stop: bool = False,
) -> Exploration[S]:
    """Walk through all states that can be reached.

    Args:
        wrong: what is wrong with a state.
        at_rest: everything is done. From every state such a one must be reachable without a fault.
        limit: states after which the walk is given up, so that what needs all states is not judged.
        stop: at the first violation.
    """
    walk = _Walk(start)
    found = Exploration[S]()
    while len(walk.willing) < len(walk.states) and found.complete:
        number = len(walk.willing)
        state = walk.states[number]
        for what in wrong(state):
            found.violations.setdefault(what, walk.way(number))
        willing, busy = [], []
        for move in moves(state):
            for what in move.wrong:
                if what not in found.violations:
                    found.violations[what] = [*walk.way(number), move.label]
            reached = walk.reach(number, move)
            if move.kind is not Kind.FAULT:
                willing.append(reached)
            if move.kind is Kind.STEP:
                busy.append(reached)
        walk.willing.append(willing)
        walk.busy.append(busy)
        found.complete = len(walk.states) <= limit and not (stop and found.violations)
    found.states = len(walk.states)
    if found.complete:
        _judge_liveness(walk, at_rest, found)
    return found


def _judge_liveness(walk: _Walk[S], at_rest: Callable[[S], bool], found: Exploration[S]) -> None:
    resting = {number for number, state in enumerate(walk.states) if at_rest(state)}
    if len(resting) < len(walk.states):
        stranded = _cannot_reach(walk.willing, resting)
        if stranded is not None:
            found.violations["L1 stranded: nothing brings the run to its end"] = walk.way(stranded)
    cycle = _cycle(walk.busy)
    if cycle is not None:
        found.violations["L2 a busy loop: it turns without time passing"] = walk.way(cycle)


def _cannot_reach(edges: list[list[int]], goals: set[int]) -> int | None:
    """The first state from which no goal can be reached."""
    backwards: list[list[int]] = [[] for _ in edges]
    for origin, targets in enumerate(edges):
        for target in targets:
            backwards[target].append(origin)
    good = set(goals)
    todo = deque(goals)
    while todo:
        for origin in backwards[todo.popleft()]:
            if origin not in good:
                good.add(origin)
                todo.append(origin)
    return next((number for number in range(len(edges)) if number not in good), None)


def _cycle(edges: list[list[int]]) -> int | None:
    """The first state on a cycle, or between two: what stays when ends, then beginnings, are taken away again and again."""
    backwards: list[list[int]] = [[] for _ in edges]
    for origin, targets in enumerate(edges):
        for target in targets:
            backwards[target].append(origin)
    left = _stripped(_stripped(set(range(len(edges))), edges, backwards), backwards, edges)
    return min(left, default=None)


def _stripped(left: set[int], forwards: list[list[int]], backwards: list[list[int]]) -> set[int]:
    ways = {number: sum(target in left for target in forwards[number]) for number in left}
    todo = deque(number for number, count in ways.items() if not count)
    while todo:
        number = todo.popleft()
        left.discard(number)
        for origin in backwards[number]:
            if origin in left:
                ways[origin] -= 1
                if not ways[origin]:
                    todo.append(origin)
    return left
