"""The timeline's bars: places on an axis on which a long wait is cut short."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some
from runs.journals import Written, moment

from celery_steps.engine import entries as fmt
from celery_steps.past import Run
from celery_steps.timeline import Timeline
from celery_steps.web.bars import Bars, Row, bars_of
from celery_steps.web.flow import flow_of
from celery_steps.web.run_page import view_of

HOUR = 3_600_000


def drawn(timeline: Timeline) -> Bars:
    return bars_of(timeline, flow_of(timeline))


def row_of(bars: Bars, key: str) -> Row:
    (row,) = [row for row in bars.rows if row.node.last.key == key]
    return row


def slept() -> Written:
    journal = (
        Written().attempt(0).step("load", 0, 400).step("charge", 400, 1000).wait("rest", began=1000, deadline=8 * HOUR).suspend()
    )
    return journal.attempt(8 * HOUR).step("rest", 8 * HOUR, 8 * HOUR, verb="sleep").step("ship", 8 * HOUR, 8 * HOUR + 1000)


def test_a_long_sleep_is_a_gap_and_work_beside_it_keeps_its_proportion() -> None:
    bars = drawn(slept().finish().timeline("succeeded", 8 * HOUR + 1000))
    (gap,) = bars.gaps
    assert (gap.width, gap.text) == (8, "8 h")
    load, charge, rest, ship = (row_of(bars, key).bars[0] for key in ("load", "charge", "rest", "ship"))
    assert charge.width == pytest.approx(load.width * 1.5)
    assert ship.width == pytest.approx(load.width + charge.width)
    assert (rest.x, rest.width) == (pytest.approx(gap.x), pytest.approx(gap.width))
    assert ship.x + ship.width == pytest.approx(100)


def test_a_short_sleep_is_no_gap() -> None:
    journal = Written().attempt(0).step("load", 0, 1000).wait("rest", began=1000, deadline=1500).suspend()
    journal.attempt(1500).step("rest", 1500, 1500, verb="sleep").step("ship", 1500, 2500).finish()
    bars = drawn(journal.timeline("succeeded", 2500))
    assert not bars.gaps
    assert [round(row.bars[0].width) for row in bars.rows] == [40, 20, 40]


def test_what_goes_on_ends_at_now_and_is_open() -> None:
    journal = Written().attempt(0).step("load", 0, 1000).wait("approved", "wait_for_event", began=1000).suspend()
    bar = row_of(drawn(journal.timeline("suspended")), "approved").bars[0]
    assert bar.open
    assert bar.x + bar.width == pytest.approx(100)


def test_a_lost_worker_shows_at_the_last_moment_that_is_known_of_it() -> None:
    journal = Written().attempt(0).step("load", 0, 400).add("start", fmt.pack_start(("charge", 1)))
    journal.attempt(1000).step("charge", 1000, 1500).step("ship", 1500, 2000).finish()
    bars = drawn(journal.timeline("succeeded", 2000))
    crashed, made = bars.bands
    assert (crashed.crashed, made.crashed) == (True, False)
    assert (crashed.x, crashed.width) == (0, pytest.approx(20))
    assert [round(bar.x) for bar in row_of(bars, "charge").bars] == [20, 50]
    assert row_of(bars, "charge").took == "1.1 s"


def test_a_doubt_keeps_no_worker_busy() -> None:
    journal = Written().attempt(0).step("load", 0, 800).add("intent", fmt.pack_intent(("charge", 1), None, False))
    timeline = journal.attempt(900).suspend().timeline("in_doubt")
    bars = view_of(
        Run("order-42", "id-1", "shop.fulfil", "in_doubt", 2, 1, 0, moment(0), moment(900), *[None] * 4), [], [], timeline, {}
    ).bars
    assert bars is not None
    assert [gap.text for gap in bars.gaps] == ["17 min"]


def test_attempts_without_room_have_no_number() -> None:
    journal = Written()
    for at in (0, 10, 20, 5000):
        journal.attempt(at)
    journal.step("load", 5000, 9000)
    assert [band.numbered for band in drawn(journal.timeline()).bands] == [True, False, False, True]


def test_many_gaps_leave_room_for_the_work() -> None:
    journal = Written()
    for n in range(40):
        journal.attempt(n * HOUR).step("poll", n * HOUR, n * HOUR + 50, sequence=n + 1).suspend()
    bars = drawn(journal.timeline("suspended"))
    assert len(bars.gaps) == 39
    assert sum(gap.width for gap in bars.gaps) <= 50.1


def test_every_stretch_of_work_says_when_it_began() -> None:
    bars = drawn(slept().timeline())
    assert [tick.text for tick in bars.ticks if not tick.text.startswith("+")] == ["22:13:20", "06:13:20"]


def test_steps_without_number_are_one_bar() -> None:
    journal = Written().attempt(0)
    for n in range(300):
        journal.step("page", 10 * n, 10 * n + 9, sequence=n + 1)
    assert [len(row.bars) for row in drawn(journal.timeline()).rows] == [1]


def test_a_run_without_steps_has_an_axis() -> None:
    bars = drawn(Written().attempt(0).timeline())
    assert not bars.rows
    assert bars.pieces


steps = some.lists(some.tuples(some.integers(0, 50), some.integers(0, 900)))
attempts = some.lists(some.tuples(some.sampled_from([0, 5, 900, HOUR, 48 * HOUR]), steps), min_size=1, max_size=8)


@given(attempts)
def test_later_is_never_further_left_and_all_is_on_the_axis(made: list[tuple[int, list[tuple[int, int]]]]) -> None:
    journal, at, n = Written(), 0, 0
    for later, steps in made:
        at += later
        journal.attempt(at)
        for began, lasts in steps:
            n += 1
            journal.step(f"step {n}", at + began, at + began + lasts)
            at += began
    bars = drawn(journal.timeline())
    assert sum(piece.width for piece in bars.pieces) == pytest.approx(100)
    assert all(one.x + one.width == pytest.approx(other.x) for one, other in pairwise(bars.pieces))
    places = sorted((bar.span.began_at, bar.x) for row in bars.rows for bar in row.bars)
    assert all(one <= other + 1e-6 for (_, one), (_, other) in pairwise(places))
    for row in bars.rows:
        for bar in row.bars:
            assert -1e-6 <= bar.x <= bar.x + bar.width <= 100 + 1e-6
    assert all(other.x - one.x >= 8 for one, other in pairwise(bars.ticks))
