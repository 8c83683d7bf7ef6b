"""Celery's events `step-*`: what goes wrong with them is not the run's concern."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery

from celery_steps import DurableTask
from celery_steps.details import Awaited, Problem, RunDetails, StepDetails
from celery_steps.worker import monitoring
from delivering import close, deliver, make_app
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Of a worker that sends task events."""
    app = make_app(redis_server, steps_lease_ttl=600)
    monkeypatch.setattr(monitoring, "worker_sends", True)
    monkeypatch.setattr(monitoring, "_line", monitoring._Line())
    yield app
    monitoring._line._close()
    close(app)


def three_steps(app: Celery, **options: Any) -> Any:
    @app.task(name="order", bind=True, base=DurableTask, **options)
    def order(self: DurableTask) -> list[int]:
        return [self.step.run("item", number, lambda number: number) for number in range(3)]

    return order


def test_a_broker_that_is_away_is_told_once_and_not_tried_at_every_step(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(app.conf, "broker_write_url", "redis://127.0.0.1:1/0")  # nobody listens there
    assert deliver(three_steps(app), id="id-1").retval == [0, 1, 2]
    assert app.AsyncResult("id-1").state == "SUCCESS"
    assert caplog.text.count("Events cannot be sent") == 1


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a broker that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel takes them
        yield server.getsockname()[1]


def sends(app: Celery) -> threading.Thread:
    """An event, on its way in a thread of its own."""
    run = RunDetails(task="order", run_id="id-1", namespace="id-1", attempt=1, retries=0, status="running")
    thread = threading.Thread(target=monitoring.send, args=(three_steps(app), "run_started", run), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers_holds_up_nobody(
    app: Celery, mute: int, scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.2)
    monkeypatch.setitem(app.conf, "broker_write_url", f"{scheme}://127.0.0.1:{mute}//")
    threads = [sends(app) for _ in range(3)]
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert "Events cannot be sent" in caplog.text


def test_what_a_broker_may_take_for_an_answer_leaves_other_options_as_they_are(app: Celery) -> None:
    app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    monitoring._line._connect(three_steps(app))
    bounds = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    assert monitoring._line._dispatcher.connection.transport_options == {"global_keyprefix": "shop:", **bounds}


def test_an_event_is_dropped_where_another_thread_hangs(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.1)
    with monitoring._line._lock:
        thread = sends(app)
        thread.join(30)
        assert not thread.is_alive()
    assert caplog.text.count("Events cannot be sent") == 1
    assert monitoring._line._dispatcher is None


def test_a_task_without_send_events_sends_none(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring._line, "send", lambda *_: pytest.fail("an event was sent"))
    assert deliver(three_steps(app, send_events=False), id="id-1").retval == [0, 1, 2]


def test_every_event_says_what_it_is_about_in_plain_values() -> None:
    until = datetime(2030, 1, 1, tzinfo=timezone.utc)
    place: dict[str, Any] = {"task": "order", "run_id": "id-1", "namespace": "order-42", "attempt": 2}
    step = StepDetails(
        **place, key="pay", sequence=1, verb="run", began_at=until, took_ms=5, error=Problem("ValueError", "no"), next_try=until
    )
    run = RunDetails(**place, retries=0, status="suspended", waits=(Awaited("nap", "sleep", until),), until=until)
    common = {"uuid": "id-1", "task": "order", "namespace": "order-42", "attempt": 2}
    assert json.loads(json.dumps(monitoring.fields_of(step))) == {
        **common,
        "took_ms": 5,
        "key": "pay",
        "sequence": 1,
        "verb": "run",
        "recorded": True,
        "next_try": "2030-01-01T00:00:00+00:00",
        "exception": "ValueError: no",
    }
    assert json.loads(json.dumps(monitoring.fields_of(run))) == {
        **common,
        "took_ms": 0,
        "status": "suspended",
        "until": "2030-01-01T00:00:00+00:00",
        "waiting_for": ["sleep (nap)"],
    }
