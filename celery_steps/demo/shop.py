"""The shop: one Celery app, and the same work as a plain task and as a durable one. Compare the two at the end of this file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from celery import Celery, signals

from celery_steps import DurableTask, current_step

Order = dict[str, Any]


def settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Celery's settings, for the Redis that the demo has started."""
    redis = environ.get("STEPS_DEMO_REDIS", "redis://localhost:6379")
    return {
        "broker_url": f"{redis}/0",
        "result_backend": f"{redis}/1",
        "steps_backend": f"{redis}/2",
        # Times for an audience: Celery's visibility timeout is an hour, the lease 30 s, if nobody sets them.
        "broker_transport_options": {
            "visibility_timeout": 5,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 5,
        },
        "steps_lease_ttl": 3,
        "worker_lost_wait": 1.0,
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
    }


app = Celery("celery_steps.demo.shop")
app.conf.update(settings(os.environ))


@signals.worker_ready.connect
def _say_that_all_are_there(**_: object) -> None:
    """Leave a file, so that the demo knows that it may kill: a pool process lost before this ends Celery's worker."""
    _leave_file("ready")


@signals.worker_process_init.connect
def _say_who_works(**_: object) -> None:
    """Leave a file named after the process id, so that the demo knows whom to kill."""
    _leave_file(str(os.getpid()))


def _leave_file(name: str) -> None:
    folder = os.environ.get("STEPS_DEMO_PROCESSES")
    if folder:
        Path(folder, name).touch()


def _ask(kind: str, order_id: int, body: Order | None = None, key: str | None = None) -> Any:
    request = Request(f"{os.environ['STEPS_DEMO_PAYMENTS']}/{kind}/{order_id}")
    request.add_header("X-Process", str(os.getpid()))
    if key:
        request.add_header("Idempotency-Key", key)
    if body is not None:
        request.data = json.dumps(body).encode()
    with urlopen(request, timeout=30) as reply:
        return json.load(reply)


def load(order_id: int) -> Order:
    return dict(_ask("orders", order_id))


def charge(order: Order, key: str | None = None) -> int:
    return int(_ask("charges", order["id"], {"cents": order["cents"]}, key)["id"])


def reserve(order: Order, key: str | None = None) -> int:
    return int(_ask("reservations", order["id"], {"item": order["item"], "quantity": order["quantity"]}, key)["id"])


def ship(order: Order, key: str | None = None) -> int:
    return int(_ask("shipments", order["id"], {"customer": order["customer"], "email": order["email"]}, key)["id"])


# As one writes it with care: acknowledged late, delivered again if the worker dies, retried when the service is away.
@app.task(acks_late=True, reject_on_worker_lost=True, autoretry_for=(OSError,), retry_backoff=True, queue="plain")
def fulfil_plainly(order_id: int) -> int:
    order = load(order_id)
    charge(order)
    reserve(order)
    return ship(order)


@app.task(
    bind=True, base=DurableTask, namespace="order-{order_id}",
    autoretry_for=(OSError,), retry_backoff=True, queue="durable",
)  # fmt: skip
def fulfil(self: DurableTask, order_id: int) -> int:
    order = self.step.run("load", order_id, load)
    self.step.run("charge", order, with_key(charge))
    self.step.run("reserve", order, with_key(reserve))
    return self.step.run("ship", order, with_key(ship))


def with_key(effect: Callable[[Order, str | None], int]) -> Callable[[Order], int]:
    """Hand the step's idempotency key to the service: a kill between effect and record repeats the call, not the effect."""

    def handler(order: Order) -> int:
        return effect(order, current_step().idempotency_key)

    return handler
