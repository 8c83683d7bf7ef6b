"""Two apps over one broker and one store: the shop sells, and the depot ships though neither knows the other's tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_steps import DurableTask
from worker.app import app as settings_of
from worker.app import effect

shop = Celery("shop")
depot = Celery("depot")
for app in (shop, depot):
    app.conf.update(settings_of.conf.changes, task_default_queue=f"{app.main}-queue")


@shop.task(bind=True, base=DurableTask, shared=False, name="sell")
def sell(self: DurableTask, order: int, only: str | None = None) -> int:
    effect(self.request.id, "sold")
    return self.step.emit("sold", "order.sold", {"order": order}, app=only)


@depot.task(bind=True, base=DurableTask, shared=False, name="ship", triggers=("order.sold",), namespace="order-{sold[order]}")
def ship(self: DurableTask, sold: dict[str, int]) -> Any:
    """Ships once the shop says so; its ledger is under the order's number."""
    self.step.run("pack", lambda: effect(str(sold["order"]), "packed"))
    self.step.wait_for_event("paid")
    return self.step.run("ship", lambda: effect(str(sold["order"]), "shipped"))
