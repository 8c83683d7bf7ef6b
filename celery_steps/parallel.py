"""What users call inside `with step.parallel() as p:`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from celery_steps.engine.block import Block
from celery_steps.engine.child import run_task
from celery_steps.engine.event import wait_for_event
from celery_steps.engine.identity import NO_INPUT
from celery_steps.engine.parallel import Future
from celery_steps.engine.retry import RetryPolicy
from celery_steps.engine.sleep import sleep, sleep_until
from celery_steps.errors import StepsError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class BranchOptions(TypedDict, total=False):
    """Options of `p.run`, as of `step.run`."""

    retry: int | RetryPolicy | None
    timeout: float | timedelta | str | None
    at_most_once: bool
    reconcile: Callable[[Any, str], Any] | None
    rollback: Callable[[Any], Any] | None
    returns: Any
    record_input: bool
    on_input_change: Literal["raise", "warn"]


class Parallel:
    """One block of branches that go on side by side: `with step.parallel() as p:`.

    Each call makes a branch of one operation and returns its future at once. Occurrences are counted, and arguments checked, in
    the order of the calls; what is recorded already is not done again.
    """

    def __init__(self, block: Block) -> None:
        self._block = block

    def __enter__(self) -> Self:
        self._block.enter()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._block.leave(error)

    @overload
    def run(self, key: str, handler: Callable[[], Awaitable[R]], /, **options: Unpack[BranchOptions]) -> Future[R]: ...
    @overload
    def run(self, key: str, handler: Callable[[], R], /, **options: Unpack[BranchOptions]) -> Future[R]: ...
    @overload
    def run(self, key: str, input: I, handler: Callable[[I], Awaitable[R]], /, **options: Unpack[BranchOptions]) -> Future[R]: ...
    @overload
    def run(self, key: str, input: I, handler: Callable[[I], R], /, **options: Unpack[BranchOptions]) -> Future[R]: ...
    @overload
    def run(self, key: str, input: Any, handler: Callable[[], R], /, **options: Unpack[BranchOptions]) -> Future[R]: ...

    def run(self, key: str, /, *arguments: Any, **options: Any) -> Future[Any]:
        """`step.run` as a branch: its handler is called in a thread of the block (a greenlet where threads are greenlets).

        It starts at once if fewer than `max_workers` handlers of the block run. An async handler runs on a loop of its thread.
        Other than `step.run` it takes no `namespace`.
        """
        if len(arguments) == 1:
            return self._block.run(key, NO_INPUT, arguments[0], options)
        if len(arguments) == 2:
            return self._block.run(key, arguments[0], arguments[1], options)
        raise StepsError(f"p.run takes a key, an optional input and a handler, not {len(arguments) + 1} arguments.")

    @overload
    def map(
        self, key: str, inputs: Iterable[I], handler: Callable[[I], Awaitable[R]], /, **options: Unpack[BranchOptions]
    ) -> list[Future[R]]: ...
    @overload
    def map(
        self, key: str, inputs: Iterable[I], handler: Callable[[I], R], /, **options: Unpack[BranchOptions]
    ) -> list[Future[R]]: ...

    def map(self, key: str, inputs: Iterable[Any], handler: Any, /, **options: Any) -> list[Future[Any]]:
        """`p.run(key, input, handler)` for each input: returns their futures, in the order of the inputs."""
        return [self._block.run(key, input, handler, options) for input in inputs]

    def sleep(self, key: str, duration: float | timedelta | str) -> Future[None]:
        """`step.sleep` as a branch."""
        return self._block.wait(lambda attempt: sleep(attempt, key, duration))

    def sleep_until(self, key: str, at: datetime | str | float) -> Future[None]:
        """`step.sleep_until` as a branch."""
        return self._block.wait(lambda attempt: sleep_until(attempt, key, at))

    def wait_for_event(
        self,
        key: str,
        event: str | None = None,
        timeout: float | timedelta | str | None = None,
        until: datetime | str | float | None = None,
        match: Mapping[str, Any] | None = None,
    ) -> Future[Any]:
        """`step.wait_for_event` as a branch. A broadcast reaches it from when the handlers of the block are over."""
        return self._block.wait(lambda attempt: wait_for_event(attempt, key, event, timeout, until, match))

    def run_task(
        self,
        key: str,
        task: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | timedelta | str | None = None,
        returns: Any = None,
        **options: Any,
    ) -> Future[Any]:
        """`step.run_task` as a branch: the task is sent when the end of the block is reached."""
        return self._block.wait(lambda attempt: run_task(attempt, key, task, args, kwargs, timeout, returns, options))
