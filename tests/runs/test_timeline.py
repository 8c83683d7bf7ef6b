"""Runs.timeline: when everything began and ended, and what followed what."""

from __future__ import annotations

import random
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask, RunRefused, Runs
from celery_steps.codec import pack
from celery_steps.engine import entries as fmt
from celery_steps.store.keys import RunId
from delivering import deliver, published
from runs.journals import Written, bars, edges, ms, span_of, statuses
from runs.outside import crash, store_of

# -- times --------------------------------------------------------------------------------------------------------------


def test_steps_lie_where_they_were_executed_counted_from_their_attempt() -> None:
    journal = Written().attempt(0).step("load", 10, 30).step("charge", 40, 90)
    journal.attempt(500).step("ship", 505, 600).finish()
    timeline = journal.timeline("succeeded", changed=610)
    assert bars(timeline) == [("load", 10, 30), ("charge", 40, 90), ("ship", 505, 600)]
    assert [(span.attempt, span.lane) for span in timeline.spans] == [(1, 0), (1, 0), (2, 0)]
    assert (ms(timeline.began_at), ms(timeline.ended_at), ms(timeline.now)) == (0, 610, 1_000_000)


def test_a_wait_goes_from_its_own_entry_to_its_outcome_in_a_later_attempt() -> None:
    journal = Written().attempt(0).step("load", 10, 30).wait("cool-off", deadline=5000, began=35).suspend()
    journal.attempt(5100).step("cool-off", 5101, 5101, verb="sleep").step("ship", 5102, 5200)
    timeline = journal.timeline()
    assert bars(timeline) == [("load", 10, 30), ("cool-off", 35, 5101), ("ship", 5102, 5200)]
    assert edges(timeline) == {"load": [], "cool-off": ["load"], "ship": ["cool-off"]}
    assert [(attempt.ended, ms(attempt.ended_at)) for attempt in timeline.attempts] == [("suspended", 30), ("interrupted", None)]


def test_what_is_waited_for_has_no_end() -> None:
    journal = Written().attempt(0).step("load", 0, 9).wait("yes", "wait_for_event", "order.approved", began=12).suspend()
    span = span_of(journal.timeline("suspended"), "yes")
    assert (span.status, ms(span.began_at), span.ended_at, span.about) == ("waiting", 12, None, "order.approved")


def test_a_request_from_outside_moves_no_step() -> None:
    journal = Written().attempt(0).step("load", 10, 30)
    journal.add("pause", fmt.pack_control("run"), at=1000).add("reclaim", fmt.pack_control("run"), at=1001)
    assert bars(journal.step("ship", 900, 1100).timeline()) == [("load", 10, 30), ("ship", 900, 1100)]


def test_a_step_that_another_run_recorded_here_counts_from_when_it_borrowed_the_namespace() -> None:
    other = RunId("shop.other", "id-2")
    journal = Written().attempt(0).step("load", 10, 30).suspend().attempt(2000, "borrow", other).step("audit", 62_000, 62_040)
    span = span_of(journal.timeline(), "audit")
    assert (ms(span.began_at), ms(span.ended_at), span.run_id, span.attempt) == (2000, 2040, "id-2", 0)


def test_the_steps_of_a_copy_lie_where_they_were_copied_one_after_the_other() -> None:
    journal = Written().attempt(700, "borrow", token="fork/id-1").step("load", 0, 5000).step("charge", 6000, 9000)
    assert bars(journal.timeline()) == [("load", 700, 700), ("charge", 700, 700)]
    assert edges(journal.timeline())["charge"] == ["load"]


def test_a_try_that_failed_lies_where_it_was_and_the_next_one_not_before_it_was_due() -> None:
    journal = Written().attempt(0).step("load", 0, 10).tried("charge", 12, 80, due=2000)
    timeline = journal.add("start", fmt.pack_start(("charge", 1))).timeline()
    assert bars(timeline) == [("load", 0, 10), ("charge", 12, 80), ("charge", 2000, None)]
    assert [span.status for span in timeline.spans] == ["done", "raised", "begun"]


def test_a_step_that_a_crash_interrupted_does_not_go_on() -> None:
    journal = Written().attempt(0).add("start", fmt.pack_start(("charge", 1)))
    assert bars(journal.timeline()) == [("charge", 0, None)]
    journal.attempt(9000).step("charge", 9001, 9002)
    assert bars(journal.timeline()) == [("charge", 0, 0), ("charge", 9001, 9002)]


def test_a_step_in_doubt_goes_on_until_it_is_resolved() -> None:
    journal = Written().attempt(0).add("intent", fmt.pack_intent(("charge", 1), None, False)).attempt(50).suspend()
    assert bars(journal.timeline("in_doubt")) == [("charge", 0, None)]
    journal.add("resolve", fmt.pack_resolve(str(journal.run), ("charge", 1), "failed", b""), at=7000)
    assert bars(journal.timeline("suspended")) == [("charge", 0, 7000)]


# -- lanes and edges ----------------------------------------------------------------------------------------------------


def test_branches_overlap_in_lanes_of_their_own_and_join_in_the_next_step() -> None:
    journal = Written().attempt(0).step("load", 0, 10).step("a", 11, 30).step("c", 12, 40).step("b", 11, 50).step("ship", 55, 60)
    timeline = journal.timeline()
    assert {span.key: span.lane for span in timeline.spans} == {"load": 0, "a": 0, "b": 1, "c": 2, "ship": 0}
    assert edges(timeline) == {"load": [], "a": ["load"], "b": ["load"], "c": ["load"], "ship": ["a", "b", "c"]}


def test_steps_of_no_time_at_all_follow_each_other_as_in_the_journal() -> None:
    journal = Written().attempt(0)
    for key in "zyxw":
        journal.step(key, 7, 7)
    timeline = journal.timeline()
    assert edges(timeline) == {"z": [], "y": ["z"], "x": ["y"], "w": ["x"]}
    assert {span.lane for span in timeline.spans} == {0}


def test_what_an_undo_took_is_known() -> None:
    journal = Written().attempt(0).step("hotel", 0, 10).add("rollback", fmt.pack_rollback("run", "failed", b""), at=20)
    journal.add("undo", fmt.pack_undo(("hotel", 1), False, b"", 25, 100)).add(
        "undo", fmt.pack_undo(("hotel", 1), True, b"", 130, 50)
    )
    timeline = journal.timeline("failed", changed=200)
    assert bars(timeline) == [("hotel", 0, 10), ("hotel", 25, 125), ("hotel", 130, 180)]
    assert [span.status for span in timeline.spans] == ["undone", "raised", "done"]


def test_a_wait_beside_a_branch_does_not_follow_it() -> None:
    journal = (
        Written().attempt(0).step("load", 0, 10).wait("paid", "wait_for_event", "paid", began=11).step("pack", 11, 400).suspend()
    )
    journal.attempt(900).step("paid", 901, 901, verb="wait_for_event").step("ship", 902, 950)
    timeline = journal.timeline()
    assert edges(timeline) == {"load": [], "paid": ["load"], "pack": ["load"], "ship": ["paid", "pack"]}
    assert (span_of(timeline, "paid").lane, span_of(timeline, "pack").lane) == (0, 1)


def test_a_branch_of_two_steps_is_followed_from_its_second_only() -> None:
    journal = Written().attempt(0).step("a", 0, 10).step("b", 20, 30).step("long", 0, 25).step("end", 40, 50)
    assert edges(journal.timeline())["end"] == ["long", "b"]


def _follows_directly(times: list[tuple[int, int]], i: int, j: int) -> bool:
    """By the definition: i was over before j began, and nothing lies between them."""

    def before(a: int, b: int) -> bool:
        return a < b and times[a][1] <= times[b][0]

    return before(i, j) and not any(before(i, k) and before(k, j) for k in range(len(times)))


@pytest.mark.parametrize("seed", range(20))
def test_edges_are_the_transitive_reduction_of_over_before_it_began(seed: int) -> None:
    chance = random.Random(seed)
    times = sorted((began, began + chance.choice((0, 0, 1, 3, 9, 30))) for began in (chance.randrange(40) for _ in range(40)))
    times = [times[i] for i in sorted(range(40), key=lambda i: times[i][0])]
    journal = Written().attempt(0)
    for i, (began, ended) in enumerate(times):
        journal.step(str(i), began, ended)
    timeline = journal.timeline()
    assert [span.key for span in timeline.spans] == [str(i) for i in range(40)]
    for j, span in enumerate(timeline.spans):
        assert span.after == tuple(i for i in range(40) if _follows_directly(times, i, j))
    for i, one in enumerate(timeline.spans):
        for j in range(i):
            if times[j][1] > times[i][0]:
                assert one.lane != timeline.spans[j].lane


def test_ten_thousand_steps_and_a_wide_block_share_what_they_follow() -> None:
    journal = Written().attempt(0)
    for i in range(4000):
        journal.step("a", 0, 10, sequence=i + 1)
    for i in range(4000):
        journal.step("b", 10, 20, sequence=i + 1)
    for i in range(2000):
        journal.step("c", 20 + i, 21 + i, sequence=i + 1)
    timeline = journal.timeline()
    assert len(timeline.spans) == 10_000
    assert len({id(span.after) for span in timeline.spans if span.key == "b"}) == 1
    assert [span.after for span in timeline.spans[-3:]] == [(9996,), (9997,), (9998,)]


# -- of runs ------------------------------------------------------------------------------------------------------------


def test_children_and_events_are_named(app: Celery, runs: Runs) -> None:
    app.conf.result_backend = app.conf.broker_url

    @app.task(name="shop.child")
    def child() -> None: ...

    @app.task(bind=True, base=DurableTask, name="shop.parent")
    def parent(self: DurableTask) -> None:
        self.step.emit("told", "order.created", {})
        self.step.run_task("child", child)

    deliver(parent, id="id-1")
    told, sent = runs.timeline("id-1").spans
    assert (told.verb, told.about, told.child_id) == ("emit", "order.created", "")
    assert (sent.verb, sent.about, sent.status, sent.ended_at) == ("run_task", "shop.child", "waiting", None)
    assert sent.child_id in [message.headers["id"] for message in published(app)]
    assert sent.began_at >= told.ended_at  # type: ignore[operator]


def test_a_run_that_fails_is_shown_with_its_rollback(app: Celery, runs: Runs) -> None:
    broken = [OSError("busy")]

    @app.task(bind=True, base=DurableTask, name="shop.travel")
    def travel(self: DurableTask) -> None:
        def undo(_: Any) -> None:
            if broken:
                raise broken.pop()

        self.step.run("flight", lambda: 1, rollback=lambda _: None)
        self.step.run("hotel", lambda: 2, rollback=undo)
        raise ValueError("no passport")

    deliver(travel, id="id-1")
    timeline = runs.timeline("id-1")
    assert statuses(timeline)[:3] == [("flight", "run", "undone"), ("hotel", "run", "undone"), ("hotel", "undo", "raised")]
    assert statuses(timeline)[3:] == [("hotel", "undo", "done"), ("flight", "undo", "done")]
    assert (timeline.status, timeline.ended_at) == ("failed", runs.get("id-1").changed_at)
    assert [(record.key, record.status) for record in runs.records("id-1")] == [("flight", "undone"), ("hotel", "undone")]
    tries = [record for record in runs.records("id-1", attempts=True) if record.verb == "undo"]
    assert [repr(record.error) for record in tries] == ["OSError('busy')", "None", "None"]


def test_a_run_that_begins_again_shows_what_it_did_before(app: Celery, runs: Runs) -> None:
    prices = [ValueError("no card")]

    @app.task(bind=True, base=DurableTask, name="shop.again")
    def again(self: DurableTask) -> str:
        self.step.run("load", lambda: 1)
        self.step.run("charge", lambda: 2)
        if prices:
            raise prices.pop()
        return "done"

    deliver(again, id="id-1")
    runs.retry("id-1", from_step="charge")
    assert [record.key for record in runs.records("id-1")] == ["load"]
    deliver(again, id="id-1", headers={"steps_ticket": True})
    assert statuses(runs.timeline("id-1")) == [("load", "run", "done"), ("charge", "run", "reopened"), ("charge", "run", "done")]
    assert [attempt.ended for attempt in runs.timeline("id-1").attempts] == ["failed", "succeeded"]
    assert runs.get("id-1").history[1].ended_at == runs.get("id-1").changed_at


def test_a_corrupt_entry_is_a_span_like_the_others(app: Celery, runs: Runs, greet: Any) -> None:
    deliver(greet, id="id-1")
    key = store_of(app).keys.namespace("id-1").journal
    for kind, data in (
        ("step", b"\xc1damaged"),
        ("wait", pack([1, "w", 1, "run_task", "shop.x", 0, b"no plan", 1])),
        ("undo", b""),
    ):
        store_of(app).client.call("XADD", key, "*", kind, data)
    timeline = runs.timeline("id-1")
    assert sorted((span.key, span.status) for span in timeline.spans) == [
        ("", "corrupt"),
        ("", "corrupt"),
        ("say", "done"),
        ("w", "waiting"),
    ]
    assert span_of(timeline, "w").child_id == ""


def test_a_run_that_has_recorded_nothing_has_no_spans(app: Celery, runs: Runs, greet: Any) -> None:
    crash(app, greet, "id-1")
    timeline = runs.timeline("id-1")
    assert (timeline.spans, timeline.ended_at, len(timeline.attempts)) == ((), None, 1)


def test_who_has_no_run_is_told(runs: Runs) -> None:
    with pytest.raises(RunRefused, match="There is no run 'nobody'"):
        runs.timeline("nobody")
