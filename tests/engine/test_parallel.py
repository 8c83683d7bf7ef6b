"""step.parallel: branches side by side, recorded one by one, joined at the end of their block."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from celery_steps import LeaseLost, StepsError, current_step, step
from celery_steps.codec import Codec
from celery_steps.engine.event import Emission
from celery_steps.engine.memory import MemoryStore, deliver
from celery_steps.engine.parallel import Future
from celery_steps.store.replies import Append, Claim, Entry
from engine.conftest import Calls, Retry, Run
from servers import wait_until


class Declined(Exception):
    """A handler's failure."""


def outcomes(futures: Sequence[Future[Any]]) -> list[str]:
    """What futures came to, as text."""
    found = []
    for future in futures:
        assert future.done()
        error = None if future.cancelled() else future.exception()
        found.append("given up" if future.cancelled() else repr(error) if error else repr(future.result()))
    return found


def kinds(run: Run, kind: str) -> int:
    return sum(entry.kind == kind for entry in run.store.entries)


# -- order and replay ---------------------------------------------------------------------------------------------------


def test_occurrences_are_in_the_order_of_the_calls_whatever_ends_first(run: Run) -> None:
    fast_is_over, calls = threading.Event(), []

    def slow() -> str:
        calls.append("slow")
        assert fast_is_over.wait(20)
        return "slow"

    def fast() -> str:
        calls.append("fast")
        fast_is_over.set()
        return "fast"

    def body() -> list[tuple[str, str]]:
        with step.parallel() as p:
            futures = [p.run("load", slow), p.run("load", fast)]
        return [future.result() for future in futures]

    assert run.attempt(body) == ["slow", "fast"]
    assert run.records == [("load", 2), ("load", 1)]
    assert run.attempt(body) == ["slow", "fast"]
    assert sorted(calls) == ["fast", "slow"]


def test_map_gives_a_future_for_each_input_in_their_order(run: Run) -> None:
    handler = Calls()

    def body() -> list[Any]:
        with step.parallel(max_workers=3) as p:
            futures = p.map("square", range(20), handler)
        return [future.result() for future in futures]

    assert run.attempt(body) == run.attempt(body) == list(range(20))
    assert sorted(handler) == list(range(20))
    assert sorted(run.records) == [("square", n) for n in range(1, 21)]


def test_a_mutable_result_is_the_recorded_one_in_the_first_attempt_as_in_a_replay(run: Run) -> None:
    kept = {"n": 1}

    def body() -> Any:
        with step.parallel() as p:
            future = p.run("k", lambda: kept)
        return future.result()

    assert run.attempt(body) == kept
    assert run.attempt(body) == kept
    assert run.attempt(body) is not kept


def test_at_most_so_many_handlers_run_at_once_and_so_many_do(run: Run) -> None:
    lock, both, running, most = threading.Lock(), threading.Barrier(2), 0, 0

    def handler(n: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(20)
        with lock:
            running -= 1

    def body() -> None:
        with step.parallel(max_workers=2) as p:
            p.map("k", range(6), handler)

    run.attempt(body)
    assert most == 2


def test_a_handler_starts_while_the_block_goes_on(run: Run) -> None:
    def body() -> str:
        started = threading.Event()
        with step.parallel() as p:
            future = p.run("k", lambda: started.set() or "done")
            assert started.wait(20)
        return future.result()

    assert run.attempt(body) == "done"


def test_inside_the_block_futures_are_not_known(run: Run) -> None:
    def body() -> None:
        for _ in range(2):
            with step.parallel() as p:
                future = p.run("k", lambda: 1)
                assert not future.done()
                assert not future.cancelled()
                for ask in (future.result, future.exception):
                    with pytest.raises(InvalidStateError, match="'k'"):
                        ask(timeout=1)
            assert future.done()
            assert future.result(timeout=0) == 1
            assert future.exception() is None

    run.attempt(body)
    run.attempt(body)


def test_an_empty_block_is_no_event(run: Run) -> None:
    def body() -> str:
        with step.parallel():
            pass
        return "done"

    assert run.attempt(body) == "done"
    assert run.records == []


def test_waits_and_handlers_join_together() -> None:
    run = Run("order-43")
    deliver(Codec(), Emission("paid", {"cents": 5}, "event-1", to="order-43"))

    def body() -> list[Any]:
        with step.parallel() as p:
            futures = [
                p.sleep("nap", timedelta(hours=1)),
                p.run("charge", lambda: "charged"),
                p.wait_for_event("paid", match={"cents": 5}),
                p.sleep_until("past", "2020-01-01T00:00:00Z"),
                p.wait_for_event("late", timeout="1d"),
            ]
        return [future.result() for future in futures]

    assert run.attempt(body) == run.attempt(body) == [None, "charged", {"cents": 5}, None, None]
    assert sorted(run.records) == [("charge", 1), ("late", 1), ("nap", 1), ("paid", 1), ("past", 1)]
    assert 86_000_000 < run.store.skipped_ms <= 86_400_000  # both rests at once


# -- failures -----------------------------------------------------------------------------------------------------------


def failing_block(handlers: Sequence[Callable[[], Any]], futures: list[Future[Any]], **options: Any) -> None:
    with step.parallel(**options) as p:
        futures[:] = [p.run("branch", handler) for handler in handlers]


def raises(error: BaseException) -> Callable[[], Any]:
    def handler() -> Any:
        raise error

    return handler


def test_the_first_failure_in_the_order_of_the_calls_is_raised_and_siblings_are_recorded(run: Run) -> None:
    later_failed, calls = threading.Event(), Calls("good")

    def first() -> None:
        assert later_failed.wait(20)
        raise Declined("first")

    def later() -> None:
        later_failed.set()
        raise Declined("later")

    futures: list[Future[Any]] = []

    def body() -> str:
        try:
            failing_block([calls, first, later], futures)
        except Declined as error:
            step.run("apologise", lambda: "sorry")
            return f"{error}: {outcomes(futures)}"
        return "went well"

    expected = "first: [\"'good'\", \"Declined('first')\", \"Declined('later')\"]"
    assert run.attempt(body) == expected
    assert sorted(run.records) == [("apologise", 1), ("branch", 1), ("branch", 2), ("branch", 3)]
    assert run.attempt(body) == expected
    assert len(calls) == 1


def test_branches_that_were_not_started_when_another_failed_do_not_start_in_a_replay(run: Run) -> None:
    after, futures = Calls(), []

    def body() -> list[str]:
        with pytest.raises(Declined):
            failing_block([Calls("good"), raises(Declined("no")), after, after], futures, max_workers=1)
        step.run("next", Calls())
        return outcomes(futures)

    expected = ["'good'", "Declined('no')", "given up", "given up"]
    assert run.attempt(body) == run.attempt(body) == expected
    assert after == []
    with pytest.raises(CancelledError, match="given up"):
        futures[2].result()
    with pytest.raises(CancelledError):
        futures[2].exception()


def test_a_caught_failure_is_recorded_also_where_no_verb_follows(run: Run) -> None:
    def body() -> str:
        with suppress(Declined):
            failing_block([raises(Declined("no")), raises(Declined("never"))], [], max_workers=1)
        return "done"

    assert run.attempt(body) == "done"
    assert sorted(run.records) == [("branch", 1), ("branch", 2)]


def test_when_the_failure_leaves_the_body_all_without_result_is_tried_again(run: Run) -> None:
    good, bad, after, tries = Calls("good"), Calls(Declined("no")), Calls("after"), []

    def flaky() -> Any:
        tries.append(current_step().try_number)
        return bad()

    def body() -> list[str]:
        futures: list[Future[Any]] = []
        failing_block([good, flaky, after], futures, max_workers=1)
        return outcomes(futures)

    with pytest.raises(Declined):
        run.attempt(body)
    assert run.records == [("branch", 1)]
    bad.outcome = "better"
    assert run.attempt(body) == ["'good'", "'better'", "'after'"]
    assert (len(good), len(bad), len(after)) == (1, 2, 1)
    assert tries == [1, 2]


def test_a_recorded_failure_that_leaves_the_body_reopens_the_whole_block(run: Run) -> None:
    one, two, three = Calls(Declined("one")), Calls(Declined("two")), Calls("three")
    both = threading.Barrier(2)

    def body() -> list[str]:
        futures: list[Future[Any]] = []
        try:
            failing_block(
                [lambda: (both.wait(20) and None) or one(), lambda: (both.wait(20) and None) or two(), three],
                futures,
                max_workers=2,
            )
        except Declined:
            step.run("note", Calls())
            raise
        return outcomes(futures)

    with pytest.raises(Declined, match="one"):
        run.attempt(body)
    with pytest.raises(Declined, match="one"):
        run.attempt(body)
    one.outcome, two.outcome = "1", "2"
    assert run.attempt(body) == ["'1'", "'2'", "'three'"]
    assert (len(one), len(two)) == (3, 3)


def test_return_exceptions_lets_all_finish_and_records_their_failures(run: Run) -> None:
    bad, good = Calls(Declined("no")), Calls("good")

    def body() -> list[str]:
        futures: list[Future[Any]] = []
        failing_block([bad, good, bad, good], futures, max_workers=1, return_exceptions=True)
        return outcomes(futures)

    expected = ["Declined('no')", "'good'", "Declined('no')", "'good'"]
    assert run.attempt(body) == run.attempt(body) == expected
    assert (len(bad), len(good)) == (2, 2)
    assert sorted(run.records) == [("branch", n) for n in (1, 2, 3, 4)]


def test_a_returned_exception_that_the_body_raises_is_tried_again_by_the_retry(run: Run) -> None:
    bad = Calls(Declined("no"))

    def body() -> Any:
        with step.parallel(return_exceptions=True) as p:
            future, other = p.run("bad", bad), p.run("good", Calls("good"))
        error = future.exception()
        if error is not None:
            raise error
        return future.result(), other.result()

    with pytest.raises(Declined):
        run.attempt(body)
    bad.outcome = "better"
    assert run.attempt(body) == ("better", "good")
    assert len(bad) == 2


def test_waits_are_given_up_when_a_branch_fails_and_stay_so(run: Run) -> None:
    bad = Calls(Declined("no"))

    def body() -> list[str]:
        with pytest.raises(Declined), step.parallel() as p:
            futures = [p.sleep("nap", "1h"), p.run("bad", bad), p.wait_for_event("never")]
        bad.outcome = "better"
        step.run("next", Calls())
        return outcomes(futures)

    expected = ["given up", "Declined('no')", "given up"]
    assert run.attempt(body) == run.attempt(body) == expected
    assert run.store.skipped_ms == 0
    assert sorted(run.records) == [("bad", 1), ("nap", 1), ("never", 1), ("next", 1)]


def test_an_exception_of_the_block_itself_drops_what_has_not_started_and_keeps_what_runs(run: Run) -> None:
    never, futures = Calls(), []

    def block() -> None:
        started = threading.Event()

        def long() -> bool:
            started.set()
            return wait_until(lambda: p._block._state == "over")

        with step.parallel(max_workers=1) as p:
            futures[:] = [p.run("runs", long), p.run("waits", never), p.sleep("nap", "1h")]
            wait_until(lambda: started.is_set() or ("runs", 1) in run.records)
            raise Declined("own")

    def body() -> list[str]:
        with pytest.raises(Declined, match="own"):
            block()
        step.run("next", Calls())
        return outcomes(futures)

    assert run.attempt(body) == run.attempt(body) == ["True", "given up", "given up"]
    assert never == []
    assert run.records[0] == ("runs", 1)


def test_when_the_blocks_own_exception_leaves_the_body_what_was_dropped_runs_in_the_retry(run: Run) -> None:
    dropped = Calls("done")

    def body() -> Any:
        with step.parallel() as p:
            nap = p.sleep("nap", "1h")
            future = p.run("k", dropped)
            if not run.retries:
                raise Declined("own")
        return nap.result(), future.result()

    with pytest.raises(Declined):
        run.attempt(body)
    assert run.attempt(body) == (None, "done")


def test_celerys_own_exceptions_pass_through_the_join_unrecorded(run: Run) -> None:
    def body() -> None:
        for keep in (False, True):
            with pytest.raises(Retry):
                failing_block([Calls("good"), raises(Retry())], [], return_exceptions=keep)

    run.attempt(body)
    assert sorted(run.records) == [("branch", 1), ("branch", 3)]


def test_what_ends_the_process_is_raised_at_the_join(run: Run) -> None:
    with pytest.raises(SystemExit):
        run.attempt(lambda: failing_block([raises(SystemExit(3))], [], return_exceptions=True))
    assert run.records == []


def test_a_lost_lease_ends_the_attempt_at_the_join(run: Run) -> None:
    never = Calls()

    class Losing(MemoryStore):
        def commit(self, *arguments: Any, **options: Any) -> Append:
            raise LeaseLost

    run = Run(store=Losing("order-42"))
    with pytest.raises(LeaseLost):
        run.attempt(lambda: failing_block([Calls(), never], [], max_workers=1))
    assert never == []


# -- what cannot be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        lambda: step.run("k", Calls()),
        lambda: step.sleep("k", 1),
        lambda: step.parallel().__enter__(),
        lambda: step.emit("k", "event"),
        lambda: step.inspect(),
    ],
)
def test_other_verbs_inside_the_block_are_refused(run: Run, verb: Callable[[], Any]) -> None:
    def body() -> None:
        with step.parallel() as p:
            p.run("one", Calls(1))
            with pytest.raises(StepsError, match="inside a parallel block"):
                verb()
            p.run("two", Calls(2))
        step.run("three", Calls(3))

    run.attempt(body)
    assert sorted(run.records) == [("one", 1), ("three", 1), ("two", 1)]


def test_verbs_and_branches_inside_a_branchs_handler_are_refused(run: Run) -> None:
    def body() -> list[Any]:
        with step.parallel(return_exceptions=True) as p:
            futures = [
                p.run("outer", lambda: step.run("inner", Calls())),
                p.run("branch", lambda: p.run("inner", Calls())),
                p.run("sleep", lambda: step.sleep("inner", 1)),
            ]
        return [future.exception() for future in futures]

    for error in run.attempt(body):
        assert isinstance(error, StepsError)
        assert "inside a step's handler" in str(error)


def test_a_block_that_is_over_or_has_not_begun_takes_no_branch(run: Run) -> None:
    def body() -> None:
        p = step.parallel()
        with pytest.raises(StepsError, match=r"with step\.parallel"):
            p.run("k", Calls())
        with p:
            pass
        with pytest.raises(StepsError, match=r"with step\.parallel"):
            p.sleep("k", 1)

    run.attempt(body)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: p.run("k"), "takes a key"),
        (lambda p: p.run("", print), "not blank"),
        (lambda p: p.run("k", 5), "must be callable"),
        (lambda p: p.run("k", lambda a: a), "requires 1 argument"),
        (lambda p: p.run("k", print, namespace="other"), "another namespace"),
        (lambda p: p.run("k", print, retrun=1), "did you mean 'returns'"),
        (lambda p: p.map("k", [1], 5), "must be callable"),
        (lambda p: p.sleep("k", -1), "duration"),
    ],
)
def test_arguments_are_checked_at_the_call(run: Run, call: Callable[[Any], Any], says: str) -> None:
    def body() -> None:
        with step.parallel() as p, pytest.raises(StepsError, match=says):
            call(p)

    run.attempt(body)
    assert run.records == []


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "8"])
def test_max_workers_is_a_whole_number_from_one_on(run: Run, number: Any) -> None:
    with pytest.raises(StepsError, match="max_workers"):
        run.attempt(lambda: step.parallel(max_workers=number))


def test_another_input_is_a_mismatch_at_the_call(run: Run) -> None:
    def body(value: int) -> None:
        with step.parallel() as p:
            p.run("k", value, Calls())

    run.attempt(lambda: body(1))
    with pytest.raises(StepsError, match="another input"):
        run.attempt(lambda: body(2))


# -- handlers -----------------------------------------------------------------------------------------------------------


def test_the_current_step_is_known_in_each_thread(run: Run) -> None:
    together = threading.Barrier(3)

    def handler(n: int) -> tuple[int, int, str]:
        together.wait(20)
        now = current_step()
        return n, now.sequence, now.idempotency_key

    def body() -> list[Any]:
        with step.parallel() as p:
            futures = p.map("k", [1, 2, 3], handler)
        return [future.result() for future in futures]

    found = run.attempt(body)
    assert [(n, sequence) for n, sequence, _ in found] == [(1, 1), (2, 2), (3, 3)]
    assert len({key for _, _, key in found}) == 3


def test_async_handlers_overlap_on_loops_of_their_own(run: Run) -> None:
    together, loops = threading.Barrier(2), []

    async def handler(n: int) -> int:
        together.wait(20)
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return n + 1

    def body() -> list[int]:
        with step.parallel() as p:
            futures = p.map("k", [1, 2], handler)
        return [future.result() for future in futures]

    assert run.attempt(body) == [2, 3]
    assert loops[0] is not loops[1]
    wait_until(lambda: all(loop.is_closed() for loop in loops))


def test_after_a_crash_the_beginning_of_each_branch_is_recorded(run: Run) -> None:
    class Crashed(MemoryStore):
        def claim(self, *arguments: Any, **options: Any) -> tuple[Claim, list[Entry]]:
            claim, entries = super().claim(*arguments, **options)
            return claim._replace(crashes=1), entries

    run = Run(store=Crashed("order-42"))
    seen: list[int] = []

    def body() -> None:
        with step.parallel() as p:
            p.map("k", [1, 2], lambda n: seen.append(kinds(run, "start")))

    run.attempt(body)
    assert kinds(run, "start") == 2
    assert max(seen) == 2


# -- commits ------------------------------------------------------------------------------------------------------------


class Counting(MemoryStore):
    """Notes the sizes of commits. The first waits until all others are on their way."""

    def __init__(self, branches: int) -> None:
        super().__init__("order-42")
        self.branches = branches
        self.sizes: list[int] = []
        self.run: Run | None = None

    def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append:
        assert self.run is not None
        assert self.run.last is not None
        waiting = self.run.last.journal._waiting
        if not self.sizes:
            wait_until(lambda: len(waiting) == self.branches)
        if entries[0][1] == "step":
            self.sizes.append(len(entries))
        return super().commit(before, after, entries, record=record)


def test_what_waits_for_the_commit_in_flight_goes_together_in_the_next() -> None:
    store = Counting(10)
    run = store.run = Run(store=store)

    def body() -> None:
        with step.parallel(max_workers=10) as p:
            p.map("k", range(10), lambda n: n)

    run.attempt(body)
    assert store.sizes == [1, 9]  # commands; ten steps one after the other take ten
    assert sorted(run.records) == [("k", n) for n in range(1, 11)]
    ids = [tuple(map(int, entry.id.split("-"))) for entry in store.entries]
    assert ids == sorted(set(ids))


def test_a_refused_commit_is_refused_for_all_that_went_together() -> None:
    class Refusing(Counting):
        def commit(self, before: str, after: str, entries: Sequence[tuple[str, str, bytes]], *, record: bool) -> Append:
            if self.sizes:
                raise LeaseLost
            return super().commit(before, after, entries, record=record)

    store = Refusing(4)
    run = store.run = Run(store=store)
    returned: list[int] = []

    def body() -> None:
        with step.parallel(max_workers=4) as p:
            p.map("k", range(4), returned.append)

    with pytest.raises(LeaseLost):
        run.attempt(body)
    assert len(returned) == 4
    assert len(run.records) == 1


# -- signals ------------------------------------------------------------------------------------------------------------


class Interrupt(Exception):
    """A soft time limit, raised by a signal in the main thread."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread."""

    def handle(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handle)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("joins", [True, False])
def test_an_interrupted_block_is_left_at_once_and_what_still_runs_is_recorded_when_it_ends(
    interrupt: Callable[[], None], joins: bool
) -> None:
    run = Run(prompt=(Interrupt,))
    inside, left, never = threading.Event(), threading.Event(), Calls()

    def body() -> list[Any]:
        def long() -> str:
            assert inside.wait(20)
            wait_until(lambda: block._state == ("over" if joins else "open"))
            interrupt()
            assert left.wait(20)
            return "long"

        try:
            with step.parallel(max_workers=1) as p:
                block = p._block
                running, dropped = p.run("long", long), p.run("never", never)
                inside.set()
                if not joins:
                    wait_until(left.is_set)
        except Interrupt:
            with pytest.raises(InvalidStateError, match="still running"):
                running.result()
            assert dropped.cancelled()
            step.run("next", Calls())
            assert run.records == [("never", 1), ("next", 1)]
            left.set()
            wait_until(lambda: ("long", 1) in run.records)
        return sorted(run.records)

    assert run.attempt(body) == [("long", 1), ("never", 1), ("next", 1)]
    assert never == []


def test_what_still_runs_when_the_run_has_ended_records_nothing(interrupt: Callable[[], None]) -> None:
    run = Run(prompt=(Interrupt,))
    left, threads = threading.Event(), []

    def long() -> None:
        threads.append(threading.current_thread())
        interrupt()
        assert left.wait(20)

    def body() -> str:
        with suppress(Interrupt), step.parallel() as p:
            p.run("long", long)
        return "done"

    assert run.attempt(body) == "done"
    left.set()
    threads[0].join(20)
    assert run.records == []


def test_an_interrupt_while_a_branch_is_recorded_lets_the_next_step_be_recorded_first(interrupt: Callable[[], None]) -> None:
    class Interrupting(MemoryStore):
        """Interrupts the main thread while it waits for the branch's commit."""

        def commit(self, *arguments: Any, **options: Any) -> Append:
            if threading.current_thread() is not threading.main_thread():
                assert run.last is not None
                committing.set()
                wait_until(lambda: len(run.last.journal._waiting) == 2)  # type: ignore[union-attr]
                interrupt()
                wait_until(caught.is_set)
            return super().commit(*arguments, **options)

    committing, caught, left = threading.Event(), threading.Event(), threading.Event()
    run = Run(store=Interrupting("order-42"), prompt=(Interrupt,))
    before = signal.getsignal(signal.SIGUSR1)

    def noting(*arguments: Any) -> None:
        caught.set()
        before(*arguments)  # type: ignore[operator, misc]

    def branch() -> None:
        interrupt()
        assert left.wait(20)

    def body() -> None:
        with pytest.raises(Interrupt), step.parallel() as p:
            p.run("branch", branch)
        signal.signal(signal.SIGUSR1, noting)
        left.set()
        assert committing.wait(20)
        with pytest.raises(Interrupt):
            step.run("next", Calls())
        assert sorted(run.records) == [("branch", 1), ("next", 1)]

    run.attempt(body)
