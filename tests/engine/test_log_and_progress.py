"""step.log, step.progress and what an attempt knows of itself, over a journal in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from celery_steps import NoActiveRun, StepsError, StoreUnavailable, step
from celery_steps.codec import Codec
from celery_steps.engine import telling
from celery_steps.engine.attempt import active_attempt
from celery_steps.engine.log import read_line, words_of
from celery_steps.engine.memory import MemoryStore
from celery_steps.engine.progress import progress_of
from celery_steps.testing.clock import Clock

from .conftest import Calls, Run


def said(run: Run) -> list[str]:
    """The messages in the run's log."""
    return [words(run, line)[0] for line in run.store.lines]


def words(run: Run, line: bytes) -> tuple[str, dict[str, Any]]:
    return words_of(read_line(line), run.store.namespace, Codec())


def progress(run: Run) -> dict[str, Any]:
    return progress_of(run.store.progress, run.store.namespace, Codec())


@pytest.fixture
def every_value_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_PACE", 0.0)


# -- lines --------------------------------------------------------------------------------------------------------------


def test_a_line_has_its_level_its_data_and_its_place(run: Run) -> None:
    def charge() -> None:
        step.log.warning("slow", seconds=3)

    def body() -> None:
        step.log.info("begun", order=42)
        step.run("charge", charge)
        step.run("charge", charge)
        step.log.error("bad", level="x", message="y", self="z")
        step.log.debug("done")

    run.attempt(body)
    lines = [read_line(line) for line in run.store.lines]
    assert [(line.level, line.key, line.sequence, line.attempt) for line in lines] == [
        ("info", "", 0, 1),
        ("warning", "charge", 1, 1),
        ("warning", "charge", 2, 1),
        ("error", "", 0, 1),
        ("debug", "", 0, 1),
    ]
    assert words(run, run.store.lines[0]) == ("begun", {"order": 42})
    assert words(run, run.store.lines[3]) == ("bad", {"level": "x", "message": "y", "self": "z"})


def test_a_replay_repeats_no_line_of_the_body(run: Run) -> None:
    charge, ship = Calls(), Calls(OSError("storm"))

    def body() -> None:
        step.log.info("begun")
        step.run("charge", charge)
        step.log.info("charged")
        step.log.info("charged again")
        step.run("ship", ship)
        step.log.info("shipped")

    for _ in range(2):
        with pytest.raises(OSError, match="storm"):
            run.attempt(body)
    ship.outcome = None
    run.attempt(body)
    assert said(run) == ["begun", "charged", "charged again", "shipped"]


def test_what_is_said_of_a_failure_is_said_again_when_it_fails_again(run: Run) -> None:
    sail = Calls(OSError("storm"))

    def body() -> None:
        try:
            step.run("sail", sail)
        except OSError:
            step.log.warning("no luck")
            raise
        step.log.info("arrived")

    for _ in range(2):
        with pytest.raises(OSError, match="storm"):
            run.attempt(body)
    sail.outcome = None
    run.attempt(body)
    run.attempt(body)
    assert said(run) == ["no luck", "no luck", "arrived"]


def test_a_killed_attempt_that_had_not_said_a_line_leaves_it_to_the_next(run: Run) -> None:
    sail, killed = Calls(OSError("storm")), [False, True, False]

    def body() -> None:
        try:
            step.run("sail", sail)
        except OSError:
            step.log.warning("no luck")
            step.log.warning("really none")
            raise
        if killed.pop(0):
            raise KeyboardInterrupt
        step.log.info("arrived")

    with pytest.raises(OSError, match="storm"):
        run.attempt(body)
    sail.outcome, killed[:] = None, [True, False]
    with pytest.raises(KeyboardInterrupt):
        run.attempt(body)
    run.attempt(body)
    assert said(run) == ["no luck", "really none", "arrived"]


def test_a_step_that_is_reopened_is_spoken_of_anew(run: Run) -> None:
    sail = Calls(OSError("storm"))

    def body() -> None:
        try:
            step.run("sail", sail)
        except OSError:
            step.log.warning("no luck")
            step.run("note", Calls())
            raise
        step.log.info("arrived")

    with pytest.raises(OSError, match="storm"):
        run.attempt(body)
    sail.outcome = None
    run.attempt(body)
    run.attempt(body)
    assert said(run) == ["no luck", "arrived"]


def test_a_line_after_a_caught_failure_is_said_once(run: Run) -> None:
    killed = [True, False]

    def later() -> None:
        if killed.pop(0):
            raise KeyboardInterrupt

    def body() -> None:
        try:
            step.run("sail", Calls(OSError("storm")))
        except OSError:
            step.log.warning("by road")
        step.run("drive", later)

    with pytest.raises(KeyboardInterrupt):
        run.attempt(body)
    run.attempt(body)
    assert said(run) == ["by road"]
    assert run.records == [("sail", 1), ("drive", 1)]


def test_a_line_does_not_make_a_caught_failure_the_outcome_of_its_step(run: Run) -> None:
    sail = Calls(OSError("storm"))

    def body() -> None:
        try:
            step.run("sail", sail)
        finally:
            step.log.info("tried")

    with pytest.raises(OSError, match="storm"):
        run.attempt(body)
    assert run.records == []


def test_lines_of_handlers_are_said_whenever_they_run(run: Run) -> None:
    tries = [OSError("storm"), None]

    def sail() -> None:
        step.log.info("sailing")
        step.progress(1)
        error = tries.pop(0)
        if error:
            raise error

    with pytest.raises(OSError, match="storm"):
        run.attempt(lambda: step.run("sail", sail))
    run.attempt(lambda: step.run("sail", sail))
    run.attempt(lambda: step.run("sail", sail))
    assert said(run) == ["sailing", "sailing"]


def test_an_async_handler_says_lines(run: Run) -> None:
    async def sail() -> None:
        await asyncio.sleep(0)
        step.log.info("sailing")
        await asyncio.to_thread(step.log.info, "still sailing")

    run.attempt(lambda: step.run("sail", sail))
    assert [(read_line(line).key, words(run, line)[0]) for line in run.store.lines] == [
        ("sail", "sailing"),
        ("sail", "still sailing"),
    ]


def test_branches_say_lines(run: Run) -> None:
    def body() -> None:
        with step.parallel() as block:
            for number in range(20):
                block.run("branch", number, lambda number: step.log.info(f"branch {number}"))
            step.log.info("all sent")
        step.log.info("all back")

    run.attempt(body)
    run.attempt(body)
    assert sorted(said(run)) == sorted([*(f"branch {number}" for number in range(20)), "all sent", "all back"])
    assert said(run)[-1] == "all back"


def test_a_body_that_speaks_more_when_it_is_resumed_repeats_no_other_line(run: Run) -> None:
    def body() -> None:
        step.log.info("begun")
        if step.resumed:
            step.log.info("resumed")
        step.run("charge", Calls())
        step.log.info("charged")

    run.attempt(body)
    run.attempt(body)
    assert said(run) == ["begun", "charged"]


# -- Python logging -------------------------------------------------------------------------------------------------------


def test_a_line_goes_to_python_logging_with_what_it_is_about(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def charge() -> None:
        step.log.info("100% charged", cents=100)

    def body() -> None:
        step.run("charge", charge)
        step.log.error("bad")

    with caplog.at_level(logging.INFO, "celery_steps.run"):
        run.attempt(body)
        run.attempt(body)
    first, second = caplog.records
    assert (first.name, first.levelno, first.getMessage()) == ("celery_steps.run", logging.INFO, "100% charged cents=100")
    about = vars(first)
    assert (about["namespace"], about["run_id"], about["key"], about["sequence"]) == ("order-42", "id-1", "charge", 1)
    assert (about["attempt"], about["data"]) == (1, {"cents": 100})
    assert first.funcName == "charge"
    assert (second.levelno, vars(second)["key"]) == (logging.ERROR, "")


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("disk full")


@pytest.fixture
def broken_logging() -> Iterator[None]:
    handler = Broken()
    logging.getLogger("celery_steps").addHandler(handler)
    telling._complained.clear()
    yield
    logging.getLogger("celery_steps").removeHandler(handler)


@pytest.mark.usefixtures("broken_logging")
def test_a_logger_that_raises_does_not_concern_the_run_and_is_told_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def body() -> str:
        step.log.warning("one")
        step.log.warning("two")
        return step.run("charge", lambda: "charged")

    assert run.attempt(body) == "charged"
    assert said(run) == ["one", "two"]
    assert capfd.readouterr().err.count("disk full") == 1


# -- what is said -------------------------------------------------------------------------------------------------------


class Hostile:
    def __repr__(self) -> str:
        raise ValueError("no repr")


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


def test_what_cannot_be_recorded_is_kept_as_its_repr(run: Run) -> None:
    given = {"plain": Plain(), "hostile": Hostile(), "price": Decimal("1.50"), "lone": "\ud800", "loop": (loop := [])}
    loop.append(loop)
    run.attempt(lambda: step.log.info("odd \ud800\x1b", **given))
    assert words(run, run.store.lines[0]) == (
        "odd \ud800\x1b",
        {
            "plain": "<plain>",
            "hostile": "<Hostile: its repr raised ValueError>",
            "price": Decimal("1.50"),
            "lone": "\ud800",
            "loop": "[[...]]",
        },
    )


def test_large_data_and_long_messages_are_kept_as_their_beginning(run: Run) -> None:
    run.attempt(lambda: step.log.info("m" * 50_000, text="t" * 1_000_000, number=1))
    message, data = words(run, run.store.lines[0])
    assert message == "m" * 10_000 + "… (50,000 characters)"
    assert data["text"].startswith("'ttt")
    assert data["text"].endswith("… (1,000,002 characters)")
    assert data["number"] == 1
    assert len(run.store.lines[0]) < 100_000


def test_data_is_kept_as_it_was_when_it_was_said(run: Run, every_value_is_written: None) -> None:
    def body() -> None:
        items = [1]
        step.log.info("items", items=items)
        items.append(2)

    run.attempt(body)
    assert words(run, run.store.lines[0])[1] == {"items": [1]}


@pytest.mark.parametrize("message", [None, 1, b"text", OSError("storm")])
def test_a_message_that_is_no_text_is_an_error(run: Run, message: Any) -> None:
    with pytest.raises(StepsError, match=r"step\.log\.info: the message must be text, not"):
        run.attempt(lambda: step.log.info(message))


# -- progress -----------------------------------------------------------------------------------------------------------


def test_the_last_progress_is_kept(run: Run) -> None:
    def body() -> None:
        for number in range(1000):
            step.progress(number, 1000, "counting", what="sheep")

    run.attempt(body)
    assert progress(run) == {"current": 999, "total": 1000, "message": "counting", "what": "sheep"}


def test_progress_is_coalesced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_PACE", 3600.0)
    told: list[bytes] = []
    tell = run.store.tell

    def counted(id: str, place: str, line: bytes, progress: bytes) -> bool:
        told.append(progress)
        return tell(id, place, line, progress)

    monkeypatch.setattr(run.store, "tell", counted)

    def body() -> None:
        for number in range(100):
            step.progress(number)
        step.log.info("half of it")
        step.progress(100)
        assert len(told) == 2

    run.attempt(body)
    assert [progress_of(data, "order-42", Codec())["current"] for data in told] == [0, 99, 100]


def test_the_last_progress_is_written_before_the_run_is_suspended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_PACE", 3600.0)
    order: list[str] = []
    monkeypatch.setattr(run.store, "tell", lambda *told: order.append("tell") or True)
    suspend = MemoryStore.suspend
    monkeypatch.setattr(MemoryStore, "suspend", lambda *a, **k: order.append("suspend") or suspend(*a, **k))

    def body() -> None:
        step.progress(1)
        step.progress(2)
        step.sleep("rest", "1h")
        step.progress(3)

    run.attempt(body)
    assert order == ["tell", "tell", "suspend", "tell"]


@pytest.mark.usefixtures("every_value_is_written")
def test_progress_is_silent_on_replay(run: Run) -> None:
    shown: list[bytes] = []
    ship = Calls(OSError("storm"))

    def body() -> None:
        step.progress(0)
        step.run("charge", Calls())
        step.progress(1)
        shown.append(run.store.progress)
        step.run("ship", ship)
        step.progress(2)

    with pytest.raises(OSError, match="storm"):
        run.attempt(body)
    assert progress(run)["current"] == 1
    run.store.progress, ship.outcome = b"untouched", None
    run.attempt(body)
    assert shown[1] == b"untouched"
    assert progress(run)["current"] == 2


@pytest.mark.usefixtures("every_value_is_written")
def test_nothing_is_told_once_the_body_is_left(run: Run) -> None:
    def body() -> None:
        step.run("charge", Calls())
        assert run.last is not None
        run.last.telling.leave()  # as a handler that was given up finds it
        step.progress(1)
        step.log.info("late")

    run.attempt(body)
    assert (run.store.progress, run.store.lines) == (b"", [])


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        (("1",), {}, "current"),
        ((None,), {}, "current"),
        ((True,), {}, "current"),
        ((float("nan"),), {}, "current"),
        ((1, "2"), {}, "total"),
        ((1, float("inf")), {}, "total"),
        ((10**5000,), {}, "current"),
        ((1, -(10**5000)), {}, "total"),
        ((1, 2**63 + 1), {}, "total"),
        ((1e30,), {}, "current"),
        ((1,), {"message": 3}, "message"),
    ],
)
def test_progress_that_makes_no_sense_is_an_error(run: Run, arguments: Any, options: Any, name: str) -> None:
    with pytest.raises(StepsError, match=rf"step\.progress: {name} must be"):
        run.attempt(lambda: step.progress(*arguments, **options))


def test_large_progress_is_cut(run: Run) -> None:
    run.attempt(lambda: step.progress(2**63, 1.5, "m" * 20_000, odd=Plain(), large="x" * 100_000))
    kept = progress(run)
    assert (kept["current"], kept["total"], kept["odd"]) == (2**63, 1.5, "<plain>")
    assert len(kept["message"]) == 10_000
    assert len(kept["large"]) < 11_000


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_an_unreachable_store_costs_the_line_and_one_attempt_to_write_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def away(*arguments: Any) -> bool:
        told.append(arguments)
        raise StoreUnavailable("Redis cannot be reached")

    tell = run.store.tell

    def body() -> str:
        monkeypatch.setattr(run.store, "tell", away)
        step.log.info("one")
        step.log.info("two")
        monkeypatch.setattr(run.store, "tell", tell)
        charged = step.run("charge", lambda: "charged")
        step.log.info("three")
        return charged

    assert run.attempt(body) == "charged"
    assert len(told) == 1
    assert said(run) == ["three"]
    assert sum("could not be written" in record.getMessage() for record in caplog.records) == 1


def test_an_unreachable_store_is_asked_once_by_a_clock_of_its_own_as_well(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def away(*arguments: Any) -> bool:
        told.append(arguments)
        raise StoreUnavailable("Redis cannot be reached")

    class Ahead(Clock):
        def monotonic(self) -> float:
            self.now_ms += 1
            return 1e12 + super().monotonic()

    def body() -> None:
        active_attempt().timer = Ahead()
        step.run("charge", lambda: "charged")
        monkeypatch.setattr(run.store, "tell", away)
        step.log.info("one")
        step.log.info("two")

    run.attempt(body)
    assert len(told) == 1


def test_a_signal_in_the_middle_of_a_line_goes_on_when_it_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeLimit(Exception):
        pass

    ids = []
    tell = run.store.tell

    def interrupted(id: str, *more: Any) -> bool:
        ids.append(id)
        if len(ids) == 1:
            raise TimeLimit
        return tell(id, *more)

    monkeypatch.setattr(run.store, "tell", interrupted)
    with pytest.raises(TimeLimit):
        run.attempt(lambda: step.log.info("one"))
    assert said(run) == ["one"]
    assert len(set(ids)) == 1


# -- ids ----------------------------------------------------------------------------------------------------------------


def test_an_attempt_knows_itself(run: Run) -> None:
    seen = []

    def body() -> None:
        seen.append((step.run_id, step.namespace, step.attempt, step.resumed, step.replaying))
        step.run("a", Calls())
        step.run("b", Calls())
        seen.append((step.attempt, step.resumed, step.replaying))

    run.attempt(body)
    run.attempt(body)
    assert seen == [
        ("id-1", "order-42", 1, False, False),
        (1, False, False),
        ("id-1", "order-42", 1, False, False),  # it asks nothing before its first verb
        (2, True, False),
    ]


def test_replaying_ends_with_the_last_recorded_outcome(run: Run) -> None:
    seen: list[bool] = []
    ship = Calls(OSError("storm"))

    def body() -> None:
        step.log.info("begun")
        seen.append(step.replaying)
        for number in range(2):
            step.run("charge", number, Calls())
            seen.append(step.replaying)
        step.run("ship", ship)
        seen.append(step.replaying)

    with pytest.raises(OSError, match="storm"):
        run.attempt(body)
    assert seen == [False, False, False]
    seen.clear()
    ship.outcome = None
    run.attempt(body)
    assert seen == [True, True, False, False]


def test_replaying_ends_with_a_step_that_is_new(run: Run) -> None:
    run.attempt(lambda: [step.run(key, Calls()) for key in "abc"])
    seen = []

    def changed() -> None:
        step.run("a", Calls())
        seen.append(step.replaying)
        step.run("x", lambda: seen.append(step.replaying))
        seen.append(step.replaying)

    run.attempt(changed)
    assert seen == [True, False, False]


@pytest.mark.parametrize("name", ["run_id", "namespace", "attempt", "resumed", "replaying"])
def test_outside_a_run_nothing_is_known(name: str) -> None:
    with pytest.raises(NoActiveRun):
        getattr(step, name)


def test_outside_a_run_nothing_can_be_said() -> None:
    with pytest.raises(NoActiveRun):
        step.log.info("hello")
    with pytest.raises(NoActiveRun):
        step.progress(1)
