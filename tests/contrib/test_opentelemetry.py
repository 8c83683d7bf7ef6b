"""Spans, made by the real SDK."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from kombu import serialization
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from celery_steps import DurableTask, Runs
from celery_steps.codec import unpack
from celery_steps.contrib import opentelemetry
from celery_steps.contrib.opentelemetry import FIRST, Tracing
from celery_steps.store.keys import RunId
from celery_steps.worker import runtime
from celery_steps.worker.messages import TICKET
from delivering import app_of_its_own, close, deliver, make_app
from servers import RedisServer

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        """Those that have ended since the last look."""
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    def names(self) -> list[str]:
        return [span.name for span in self.take()]


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    tracing = opentelemetry.instrument(spans.provider)
    yield spans
    tracing.uninstrument()
    assert (tracing._open, tracing._prepared) == ({}, {})  # nothing is kept of what is over


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server, steps_lease_ttl=600)
    yield app
    close(app)


def refuse() -> None:
    raise ValueError("no")


def waiting(app: Celery) -> Any:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        self.step.wait_for_event("approved")
        self.step.run("two", lambda: 2)

    return order


def headers_of_the_ticket(app: Celery, id: str) -> dict[str, Any]:
    message = runtime.of(app).store.message(id, RunId("order", id))
    assert message is not None
    _, _, content_type, encoding, data = unpack(message)
    headers: dict[str, Any] = serialization.loads(data, content_type, encoding, accept=[content_type])[2]["headers"]
    return headers


def test_each_executed_step_is_a_span_in_its_attempt_and_a_replay_is_none(app: Celery, spans: Spans) -> None:
    order = waiting(app)
    deliver(order, id="id-1")
    one, first = spans.take()
    assert (one.name, first.name) == ("step/one", "attempt/order")
    assert one.parent is not None
    assert one.parent.span_id == first.context.span_id
    millisecond = 1_000_000
    assert first.start_time <= one.start_time + millisecond
    assert one.start_time <= one.end_time <= first.end_time + millisecond
    assert dict(one.attributes) == {
        "celery_steps.task": "order",
        "celery_steps.run_id": "id-1",
        "celery_steps.namespace": "id-1",
        "celery_steps.attempt": 1,
        "celery_steps.key": "one",
        "celery_steps.sequence": 1,
        "celery_steps.verb": "run",
        "celery_steps.recorded": True,
    }
    assert first.attributes["celery_steps.status"] == "suspended"
    assert first.attributes["celery_steps.waiting_for"] == ("wait_for_event approved",)

    Runs(app).emit("approved", 1, to="id-1")
    deliver(order, id="id-1", headers=headers_of_the_ticket(app, "id-1"))
    assert spans.names() == ["step/approved", "step/two", "attempt/order"]


def test_later_attempts_link_to_the_first_and_all_are_the_callers(app: Celery, spans: Spans) -> None:
    order = waiting(app)
    deliver(order, id="id-1", headers={"traceparent": CALLER})
    first = spans.take()[-1]
    assert f"{first.parent.span_id:016x}" == "b7ad6b7169203331"
    assert first.links == ()

    Runs(app).emit("approved", 1, to="id-1")
    deliver(order, id="id-1", headers=headers_of_the_ticket(app, "id-1"))
    last = spans.take()[-1]
    assert [link.context.span_id for link in last.links] == [first.context.span_id]
    assert last.context.trace_id == first.context.trace_id == int(CALLER.split("-")[1], 16)


def test_an_attempt_is_a_child_of_the_span_that_has_begun_for_its_delivery(app: Celery, spans: Spans) -> None:
    with spans.provider.get_tracer("celery").start_as_current_span("run/order") as delivery:
        deliver(waiting(app), id="id-1", headers={"traceparent": CALLER})
    attempt = next(span for span in spans.take() if span.name == "attempt/order")
    assert attempt.parent.span_id == delivery.get_span_context().span_id


@pytest.mark.parametrize("first", ["ours", "Celery's"])
def test_the_order_of_instrumentations_does_not_matter(app: Celery, first: str) -> None:
    spans, celerys = Spans(), CeleryInstrumentor()
    if first == "Celery's":
        celerys.instrument(tracer_provider=spans.provider)
    ours = opentelemetry.instrument(spans.provider)
    if first == "ours":
        celerys.instrument(tracer_provider=spans.provider)
    order = waiting(app)
    try:
        deliver(order, id="id-1")
        one, attempt, delivery = spans.take()
        Runs(app).emit("approved", 1, to="id-1")
        deliver(order, id="id-1", headers=headers_of_the_ticket(app, "id-1"))
        later = next(span for span in spans.take() if span.name == "attempt/order")
    finally:
        ours.uninstrument()
        celerys.uninstrument()
    assert (one.name, attempt.name, delivery.name) == ("step/one", "attempt/order", "run/order")
    assert (one.parent.span_id, attempt.parent.span_id) == (attempt.context.span_id, delivery.context.span_id)
    assert [link.context.span_id for link in later.links] == [attempt.context.span_id]
    assert (ours._open, ours._prepared) == ({}, {})


def test_failures_are_errors_with_their_exception(app: Celery, spans: Spans) -> None:
    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with suppress(ValueError):
            self.step.run("caught", refuse)
        self.step.run("last", refuse)

    deliver(order, id="id-1")
    found = spans.take()
    assert [span.name for span in found] == ["step/caught", "step/last", "attempt/order"]
    for span in found:
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: no")
        (event,) = span.events
        assert event.name == "exception"
        assert (event.attributes["exception.type"], event.attributes["exception.message"]) == ("ValueError", "no")
        assert "in refuse" in event.attributes["exception.stacktrace"]
    assert [span.attributes.get("celery_steps.recorded") for span in found] == [True, False, None]


def test_branches_are_children_of_the_attempt_and_overlap(app: Celery, spans: Spans) -> None:
    together = threading.Barrier(3)

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        with self.step.parallel() as p:
            p.map("item", [1, 2, 3], lambda item: together.wait(10) and item)

    deliver(order, id="id-1")
    *branches, attempt = spans.take()
    assert sorted(span.attributes["celery_steps.sequence"] for span in branches) == [1, 2, 3]
    assert {span.parent.span_id for span in branches} == {attempt.context.span_id}
    millisecond = 1_000_000
    assert max(span.start_time for span in branches) <= min(span.end_time for span in branches) + millisecond


def test_a_task_without_a_step_and_a_plain_task_have_no_span(app: Celery, spans: Spans) -> None:
    @app.task(name="durable", base=DurableTask)
    def durable() -> int:
        return 1

    @app.task(name="plain")
    def plain() -> int:
        return 1

    assert deliver(durable, id="id-1").retval == deliver(plain, id="id-2").retval == 1
    assert spans.take() == []


def test_an_attempt_that_leaves_without_a_word_ends_with_its_delivery(app: Celery, spans: Spans) -> None:
    from celery.exceptions import Reject

    @app.task(name="order", bind=True, base=DurableTask)
    def order(self: DurableTask) -> None:
        self.step.run("one", lambda: 1)
        raise Reject("later", requeue=True)

    deliver(order, id="id-1")
    assert spans.names() == ["step/one", "attempt/order"]


@pytest.mark.parametrize("call", ["directly", "eagerly"])
def test_calls_without_a_worker_have_spans_too(spans: Spans, call: str) -> None:
    app = app_of_its_own("outside")

    @app.task(bind=True, base=DurableTask, name="order")
    def order(self: DurableTask) -> int:
        return self.step.run("one", lambda: 1)

    with spans.provider.get_tracer("web").start_as_current_span("request") as request:
        assert (order() if call == "directly" else order.apply().get()) == 1
    one, attempt, _ = spans.take()
    assert (one.name, attempt.name) == ("step/one", "attempt/order")
    assert attempt.parent.span_id == request.get_span_context().span_id


def test_without_a_provider_nothing_is_made_and_nothing_breaks(app: Celery) -> None:
    tracing = Tracing(trace.NoOpTracerProvider().get_tracer("none"))
    for signal, receiver in tracing.receivers():
        signal.connect(receiver, weak=False)
    try:
        assert deliver(waiting(app), id="id-1").info.state == "IGNORED"
        assert FIRST not in headers_of_the_ticket(app, "id-1")
    finally:
        tracing.uninstrument()


@pytest.mark.parametrize("header", ["nonsense", 7, "00-00000000000000000000000000000000-0000000000000000-01"])
def test_a_header_that_names_no_span_is_no_link(app: Celery, spans: Spans, header: Any) -> None:
    deliver(waiting(app), id="id-1", headers={FIRST: header, TICKET: True})
    assert spans.take()[-1].links == ()
