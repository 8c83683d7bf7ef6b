"""Traces: a span for each attempt at a run, and in it one for each step that was executed or has failed. A replay makes none.

    from celery_steps.contrib import opentelemetry
    opentelemetry.instrument()

An attempt's span is a child of the span that Celery's own instrumentation has begun for the delivery, else of the one that the
message's headers name, if there is one. Later attempts, in whatever process, link to the first one's span.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from celery import signals as celery_signals
from celery.app.task import Context as Request
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanContext, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from celery_steps import signals
from celery_steps.details import Problem, RunDetails, StepDetails
from celery_steps.worker import listening

#: Header that carries the span of the run's first attempt. It stays with the message, also in its ticket.
FIRST = "steps_traceparent"

_format = TraceContextTextMapPropagator()


def instrument(tracer_provider: TracerProvider | None = None) -> Tracing:
    """Make spans from now on, of every durable task in this process and those that are forked from it.

    Args:
        tracer_provider: whose tracer makes them; default: the global one, whenever that is set.

    Returns what makes them, for `uninstrument`.
    """
    tracing = Tracing(trace.get_tracer("celery_steps", tracer_provider=tracer_provider))
    for signal, receiver in tracing.receivers():
        signal.connect(receiver, weak=False)
    return tracing


class _Attempt(NamedTuple):
    span: Span
    thread: int  # the body's


class Tracing:
    """The spans of this process's attempts that are open."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._prepared: dict[tuple[str, int], Span] = {}  # by task id and thread: a delivery that may begin an attempt
        self._open: dict[tuple[str, int], _Attempt] = {}  # by run and number of its attempt

    def uninstrument(self) -> None:
        """Make no more spans."""
        for signal, receiver in self.receivers():
            signal.disconnect(receiver)

    def receivers(self) -> Iterator[tuple[Any, Callable[..., None]]]:
        """Each signal, with what hears it."""
        yield listening.about_to_begin, self._prepare
        yield signals.run_started, self._begin
        yield signals.run_resumed, self._begin
        yield signals.step_executed, self._step
        yield signals.step_failed, self._step
        yield signals.run_suspended, self._end
        yield signals.run_finished, self._end
        yield signals.lease_lost, self._end
        yield celery_signals.task_postrun, self._forget

    def _prepare(self, sender: Any, **_: Any) -> None:
        """Before the body. The span begins here, so that the message with which the run is stored can name it.

        Not in task_prerun: there Celery's instrumentation begins the delivery's span, before this or after it.
        It is ended only if the body begins an attempt: without a step there is none to show.
        """
        task, request = sender, sender.request
        if request.called_directly:  # no delivery, or the main process speaks for a child
            return
        first = _named(_header(request, FIRST))
        parent = None if trace.get_current_span().get_span_context().is_valid else propagate.extract(request, getter=_getter)
        links = [Link(first)] if first is not None else []
        span = self._tracer.start_span(f"attempt/{task.name}", context=parent, links=links)
        self._prepared[request.id, threading.get_ident()] = span
        if first is None and span.get_span_context().is_valid:
            carrier: dict[str, str] = {}
            _format.inject(carrier, trace.set_span_in_context(span, Context()))
            request.headers = {**(request.headers or {}), FIRST: carrier["traceparent"]}

    def _begin(self, details: RunDetails, **_: Any) -> None:
        thread = threading.get_ident()
        span = self._prepared.pop((details.run_id, thread), None)
        if span is None:  # a direct call
            span = self._tracer.start_span(f"attempt/{details.task}")
        span.set_attributes({**_place(details), "celery_steps.retries": details.retries})
        self._open[details.run_id, details.attempt] = _Attempt(span, thread)

    def _step(self, details: StepDetails, **_: Any) -> None:
        attempt = self._open.get((details.run_id, details.attempt))
        within = trace.set_span_in_context(attempt.span) if attempt is not None else None
        began = int(details.began_at.timestamp() * 1e9)
        span = self._tracer.start_span(
            f"step/{details.key}",
            context=within,
            start_time=began,
            attributes={
                **_place(details),
                "celery_steps.key": details.key,
                "celery_steps.sequence": details.sequence,
                "celery_steps.verb": details.verb,
                "celery_steps.recorded": details.recorded,
            },
        )
        _fail(span, details.error)
        span.end(began + details.took_ms * 1_000_000)

    def _end(self, details: RunDetails, **_: Any) -> None:
        attempt = self._open.pop((details.run_id, details.attempt), None)
        if attempt is None:  # the main process speaks for a child that it has ended
            return
        attempt.span.set_attribute("celery_steps.status", details.status)
        if details.waits:
            attempt.span.set_attribute("celery_steps.waiting_for", [wait.waiting_for for wait in details.waits])
        _fail(attempt.span, details.error)
        attempt.span.end()

    def _forget(self, task_id: str, **_: Any) -> None:
        """After the delivery, whatever became of it."""
        thread = threading.get_ident()
        self._prepared.pop((task_id, thread), None)
        for key in [key for key, attempt in list(self._open.items()) if key[0] == task_id and attempt.thread == thread]:
            with suppress(KeyError):
                self._open.pop(key).span.end()


def _place(details: StepDetails | RunDetails) -> dict[str, Any]:
    return {
        "celery_steps.task": details.task,
        "celery_steps.run_id": details.run_id,
        "celery_steps.namespace": details.namespace,
        "celery_steps.attempt": details.attempt,
    }


def _fail(span: Span, error: Problem | None) -> None:
    if error is not None:
        event = {"exception.type": error.type, "exception.message": error.message, "exception.stacktrace": error.traceback}
        span.add_event("exception", event)
        span.set_status(StatusCode.ERROR, f"{error.type}: {error.message}")


# -- headers ------------------------------------------------------------------------------------------------------------


def _header(request: Request, name: str) -> str | None:
    value = (request.headers or {}).get(name) or getattr(request, name, None)
    return value if isinstance(value, str) else None


def _named(traceparent: str | None) -> SpanContext | None:
    if traceparent is None:
        return None
    found = trace.get_current_span(_format.extract({"traceparent": traceparent}, Context())).get_span_context()
    return found if found.is_valid else None


class _Getter(Getter[Request]):
    def get(self, carrier: Request, key: str) -> list[str] | None:
        value = _header(carrier, key)
        return [value] if value is not None else None

    def keys(self, carrier: Request) -> list[str]:
        return list(carrier.headers or {})


_getter = _Getter()
