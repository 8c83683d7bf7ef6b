"""For Django projects: durable tasks that are sent when the transaction is committed."""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_steps.task import DurableTask

__all__ = ["DjangoDurableTask"]


class DjangoDurableTask(DurableTask, DjangoTask):  # type: ignore[misc,unused-ignore]
    """A DurableTask that keeps what Celery gives the tasks of Django projects: `delay_on_commit` and `apply_async_on_commit`.

    `@shared_task(bind=True, base=DjangoDurableTask)`, or for all tasks
    `Celery("proj", task_cls="celery_steps.contrib.django:DjangoDurableTask")`.
    """

    abstract = True
