"""A durable task over the project's models."""

from celery import shared_task

from celery_steps.contrib.django import DjangoDurableTask
from shop.models import Order


@shared_task(bind=True, base=DjangoDurableTask, namespace="order-{order_id}")
def fulfil(self: DjangoDurableTask, order_id: int, fails: bool = False) -> str:
    cents = self.step.run("load", order_id, lambda id: Order.objects.get(pk=id).cents)
    self.step.run("charge", cents, lambda cents: f"charged {cents}")
    if fails:
        raise ValueError("no parcel service")
    Order.objects.filter(pk=order_id).update(status="shipped")
    return "shipped"
