"""A time axis of so many columns, on which long rests are cut short."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from celery_steps.times import spoken

Interval = tuple[float, float]

#: Columns between two labels.
_APART = 16


class Axis:
    """Columns for times in ms. Rests between what was `busy` are drawn as at most a third of it all."""

    def __init__(self, start: float, end: float, busy: Iterable[Interval], width: int) -> None:
        self.width = width
        self._start, end = start, max(end, start + 1)
        work = _merged((max(began, start), min(max(ended, began + 1), end)) for began, ended in busy)
        whole = sum(ended - began for began, ended in work)
        rests = _between(work, start, end) if work else []
        most = whole / max(3, len(rests)) if rests else 0
        self._edges = sorted({start, end, *(edge for interval in work for edge in interval)})
        cut = {began for began, ended in rests if ended - began > most}
        pairs = list(zip(self._edges, self._edges[1:], strict=False))
        drawn = [most if began in cut else ended - began for began, ended in pairs]
        self._places = list(accumulate(drawn, initial=0.0))
        self._scale = width / self._places[-1]
        #: Columns in the middle of what is cut short.
        self.cuts = sorted({self._middle(began, ended) for began, ended in pairs if began in cut})
        self._behind = {self.column(ended): ended for began, ended in pairs if began in cut}

    def column(self, ms: float) -> int:
        """The column of a moment, from 0."""
        return max(0, min(self.width - 1, int(self._place(ms) * self._scale)))

    def labels(self) -> list[tuple[int, str]]:
        """Columns with the time since the start, far enough apart to be written."""
        found: dict[int, str] = {}
        for column in [0, *self._behind, *range(_APART, self.width - 8, _APART)]:
            moment = self._behind.get(column, self._moment(column))
            text = f"+{length(moment - self._start)}" if column else "0"
            if (
                all(abs(column - other) >= 12 for other in found)
                and text not in found.values()
                and column + len(text) <= self.width
            ):
                found[column] = text
        return sorted(found.items())

    def _middle(self, began: float, ended: float) -> int:
        return (self.column(began) + self.column(ended)) // 2

    def _place(self, ms: float) -> float:
        i = max(0, min(bisect_right(self._edges, ms) - 1, len(self._edges) - 2))
        began, ended = self._edges[i : i + 2]
        part = (min(max(ms, began), ended) - began) / (ended - began)
        return self._places[i] + part * (self._places[i + 1] - self._places[i])

    def _moment(self, column: int) -> float:
        place = column / self._scale
        i = max(0, min(bisect_right(self._places, place) - 1, len(self._edges) - 2))
        length = self._places[i + 1] - self._places[i]
        part = (place - self._places[i]) / length if length else 0.0
        return self._edges[i] + part * (self._edges[i + 1] - self._edges[i])


def length(ms: float) -> str:
    """A length of time for people, in more detail than a list has room for."""
    return f"{round(ms)} ms" if ms < 999.5 else spoken(ms / 1000)


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for began, ended in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        else:
            found.append((began, ended))
    return found


def _between(work: Sequence[Interval], start: float, end: float) -> list[Interval]:
    edges = [start, *(edge for interval in work for edge in interval), end]
    return [(began, ended) for began, ended in zip(edges[::2], edges[1::2], strict=True) if began < ended]
