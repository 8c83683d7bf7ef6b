"""step.run: executed until recorded, never again after."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from celery_steps import InputMismatch, NoActiveRun, ResultError, StepsError, current_step, step
from engine.conftest import Calls, Retry, Run


def test_a_completed_step_is_not_called_again(run: Run) -> None:
    load = Calls({"cents": 100})
    first = run.attempt(lambda: step.run("load", 42, load))
    again = run.attempt(lambda: step.run("load", 42, load))
    assert first == again == {"cents": 100}
    assert load == [42]
    assert run.records == [("load", 1)]


def test_the_nth_use_of_a_key_is_its_nth_occurrence(run: Run) -> None:
    def body() -> None:
        for key in ("load", "load", "other"):
            step.run(key, Calls())
        step.run("load", Calls(), namespace="elsewhere")
        assert [(r["key"], r["sequence"]) for r in step.inspect("elsewhere")] == [("load", 1)]

    run.attempt(body)
    assert run.records == [("load", 1), ("load", 2), ("other", 1)]


def test_only_the_failed_step_runs_again(run: Run) -> None:
    one, two = Calls(1), Calls(ValueError("no"))

    def body() -> int:
        return int(step.run("one", one)) + int(step.run("two", two))

    with pytest.raises(ValueError, match="no"):
        run.attempt(body)
    two.outcome = 2
    assert run.attempt(body) == 3
    assert (len(one), len(two)) == (1, 2)


@pytest.mark.parametrize(
    "value",
    [
        (1, [2, (3,)], b"\x00", {4: "four", (5, 6): None}),
        Decimal("1.10"),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
        {1, 2},
        frozenset({"a"}),
        2**100,
        None,
        True,
        1.0,
        "",
    ],
)
def test_the_first_call_and_a_replay_return_the_same_value_and_type(run: Run, value: Any) -> None:
    first = run.attempt(lambda: step.run("k", lambda: value))
    again = run.attempt(lambda: step.run("k", lambda: pytest.fail("called again")))
    assert first == again == value
    assert type(first) is type(again) is type(value)


def test_a_mutable_result_is_the_recorded_one_not_the_handlers_own(run: Run) -> None:
    kept: list[int] = [1]
    assert run.attempt(lambda: step.run("k", lambda: kept)) is not kept


def test_an_unserialisable_result_names_its_path_and_records_nothing(run: Run) -> None:
    with pytest.raises(ResultError, match=r'result\["items"\]\[1\]'):
        run.attempt(lambda: step.run("k", lambda: {"items": [1, object()]}))
    assert run.records == []


# -- input --------------------------------------------------------------------------------------------------------------


def test_another_input_is_a_mismatch_with_both_hashes_and_the_difference(run: Run) -> None:
    run.attempt(lambda: step.run("greet", {"name": "alice", "n": 1}, Calls()))
    with pytest.raises(InputMismatch) as caught:
        run.attempt(lambda: step.run("greet", {"name": "bob", "n": 1}, Calls()))
    text = str(caught.value)
    assert text.count("v1:sha256:") == 2
    for part in ("'greet'", "occurrence 1", "'order-42'", "input['name'] was 'alice', is 'bob'"):
        assert part in text


def test_a_changed_input_can_keep_the_recorded_result(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.attempt(lambda: step.run("k", 1, Calls("first")))
    with caplog.at_level(logging.WARNING, "celery_steps"):
        assert run.attempt(lambda: step.run("k", 2, Calls("second"), on_input_change="warn")) == "first"
    assert "recorded result is kept" in caplog.text


@pytest.mark.parametrize(("one", "other"), [("1", 1), (1, 1.0), (1, True), (None, "")])
def test_inputs_of_other_types_differ(run: Run, one: Any, other: Any) -> None:
    run.attempt(lambda: step.run("k", one, Calls()))
    with pytest.raises(InputMismatch):
        run.attempt(lambda: step.run("k", other, Calls()))


def test_no_input_is_not_the_input_none(run: Run) -> None:
    run.attempt(lambda: step.run("k", Calls()))
    with pytest.raises(InputMismatch):
        run.attempt(lambda: step.run("k", None, Calls()))


def test_a_partials_bound_arguments_are_its_input(run: Run) -> None:
    def charge(card: str, cents: int) -> str:
        return f"{card}:{cents}"

    assert run.attempt(lambda: step.run("charge", partial(charge, "visa", cents=5))) == "visa:5"
    with pytest.raises(InputMismatch, match=r"cents"):
        run.attempt(lambda: step.run("charge", partial(charge, "visa", cents=6)))


def test_inputs_are_recorded_unless_told_otherwise(run: Run) -> None:
    def body() -> list[Any]:
        step.run("open", "seen", Calls())
        step.run("secret", "unseen", Calls(), record_input=False)
        return [record["input"] for record in step.inspect()]

    assert run.attempt(body) == ["seen", None]


# -- handlers -----------------------------------------------------------------------------------------------------------


def two(a: Any, b: Any) -> None: ...
def keyword(*, must: int) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("k", two), "requires 2 argument"),
        (("k", lambda a: a), "requires 1 argument"),
        (("k", 1, two), "requires 2 argument"),
        (("k", keyword), "keyword argument 'must'"),
        (("k", 5), "must be callable"),
        (("k", print, 5), "swapped"),
        (("", print), "not blank"),
        (("  ", print), "not blank"),
        ((5, print), "must be text"),
        (("k",), "takes a key"),
        (("k", 1, print, 2), "takes a key"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_called(run: Run, arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(StepsError, match=says):
        run.attempt(lambda: step.run(*arguments))
    assert run.records == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retrun": 1}, "did you mean 'returns'"),
        ({"namespace": " "}, "not blank"),
        ({"namespace": "x" * 513}, "at most 512"),
        ({"on_input_change": "ignore"}, "on_input_change"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_valid(run: Run, options: dict[str, Any], says: str) -> None:
    with pytest.raises(StepsError, match=says):
        run.attempt(lambda: step.run("k", pytest.fail, **options))


def test_a_default_of_a_lambda_is_kept_without_input(run: Run) -> None:
    assert run.attempt(lambda: [step.run("k", lambda i=i: i) for i in range(3)]) == [0, 1, 2]


def test_a_handler_without_parameters_is_called_without_its_input(run: Run) -> None:
    assert run.attempt(lambda: step.run("k", 5, lambda: "called")) == "called"


def test_methods_builtins_and_callable_objects_are_handlers(run: Run) -> None:
    class Shop:
        def ship(self, order: int) -> str:
            return f"shipped {order}"

    def body() -> list[Any]:
        return [step.run("m", 1, Shop().ship), step.run("b", [3, 1], sorted), step.run("o", 7, Calls())]

    assert run.attempt(body) == ["shipped 1", [1, 3], 7]


def test_async_handlers_run_on_one_loop(run: Run) -> None:
    loops = []

    async def handler(value: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        assert current_step().key == "k"
        return value + 1

    assert run.attempt(lambda: step.run("k", 1, handler) + step.run("k", 2, handler)) == 5
    assert loops[0] is loops[1]


def test_a_step_inside_a_handler_is_an_error(run: Run) -> None:
    with pytest.raises(StepsError, match="inside a step's handler"):
        run.attempt(lambda: step.run("outer", lambda: step.run("inner", Calls())))
    assert run.records == []


def test_the_current_step_has_an_idempotency_key_that_stays_the_same(run: Run) -> None:
    seen = []

    def handler() -> None:
        seen.append(current_step())
        raise ValueError("not yet")

    for _ in range(2):
        with pytest.raises(ValueError, match="not yet"):
            run.attempt(lambda: step.run("charge", handler))
    first, second = seen
    assert (first.key, first.sequence, first.namespace) == ("charge", 1, "order-42")
    assert first.idempotency_key == second.idempotency_key
    assert (first.try_number, second.try_number) == (1, 2)
    run.attempt(lambda: step.run("other", lambda: seen.append(current_step())))
    assert seen[2].idempotency_key != first.idempotency_key


def test_outside_a_run_there_is_no_step() -> None:
    for call in (lambda: step.run("k", print), step.inspect, current_step):
        with pytest.raises(NoActiveRun):
            call()


# -- failures -----------------------------------------------------------------------------------------------------------


class Declined(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"declined: {code}")
        self.code = code


def test_a_caught_failure_is_the_steps_outcome_and_every_replay_takes_the_same_branch(run: Run) -> None:
    charge, stop, codes = Calls(Declined(51)), Calls(RuntimeError("later")), []

    def body() -> str:
        try:
            step.run("charge", charge)
        except Declined as error:
            codes.append(error.code)
            step.run("apologise", Calls())
        step.run("stop", stop)
        return "done"

    with pytest.raises(RuntimeError):
        run.attempt(body)
    charge.outcome = "now it would work"
    stop.outcome = None
    assert run.attempt(body) == "done"
    assert len(charge) == 1
    assert codes == [51, 51]
    assert run.records == [("charge", 1), ("apologise", 1), ("stop", 1)]


def test_a_failure_that_the_body_caught_before_it_returned_is_recorded(run: Run) -> None:
    def body() -> str:
        try:
            step.run("charge", Calls(Declined(51)))
        except Declined:
            return "declined"
        return "charged"

    assert run.attempt(body) == "declined"
    assert run.records == [("charge", 1)]


def test_a_recorded_failure_that_leaves_the_body_is_reopened_by_the_retry(run: Run) -> None:
    charge = Calls(Declined(51))

    def body() -> Any:
        try:
            return step.run("charge", charge)
        except Declined as error:
            step.run("note", Calls())
            raise RuntimeError("give up for now") from error

    with pytest.raises(RuntimeError):
        run.attempt(body)
    charge.outcome = "charged"
    assert run.attempt(body) == "charged"
    assert len(charge) == 2


def test_a_failure_that_nobody_caught_is_not_recorded(run: Run) -> None:
    with pytest.raises(Declined):
        run.attempt(lambda: step.run("charge", Calls(Declined(51))))
    assert run.records == []


def test_celerys_own_exceptions_pass_through_unrecorded(run: Run) -> None:
    def body() -> None:
        try:
            step.run("k", Calls(Retry()))
        except Retry:
            step.run("next", Calls())

    run.attempt(body)
    assert run.records == [("next", 1)]


def test_a_namespace_begun_with_other_arguments_is_refused(run: Run) -> None:
    from celery_steps.codec import Codec
    from celery_steps.engine.attempt import Attempt, current

    def call(id: str, digest: bytes) -> None:
        attempt = Attempt(
            store=run.store, run=f"t/{id}/0", run_id=id, task="t", token=id, codec=Codec(), call_digest=lambda: digest
        )
        token = current.set(attempt)
        try:
            step.run("k", Calls())
        finally:
            current.reset(token)

    call("1", b"a" * 32)
    call("2", b"a" * 32)
    with pytest.raises(InputMismatch, match="other arguments"):
        call("3", b"b" * 32)
