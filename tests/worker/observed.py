"""`worker.app`, observed: every span is a line of a file, and metrics are shared by the processes of the worker."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from celery.signals import worker_ready
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from celery_steps import Runs
from celery_steps.contrib import opentelemetry, prometheus
from worker.app import _folder, app


class Lines(SpanExporter):
    """Appends spans to a file, as a whole."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        file = os.open(_folder / "spans", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for span in spans:
            os.write(file, (span.to_json(indent=None) + "\n").encode())
        os.close(file)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
CeleryInstrumentor().instrument(tracer_provider=provider)
opentelemetry.instrument(provider)
prometheus.instrument()


@worker_ready.connect
def expose(**_: Any) -> None:
    """The metrics of all processes of this worker, by HTTP from its main process."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(prometheus.RunsCollector(Runs(app)))
    server, _thread = start_http_server(0, "127.0.0.1", registry=registry)
    (_folder / "metrics.json").write_text(json.dumps(server.server_port))
