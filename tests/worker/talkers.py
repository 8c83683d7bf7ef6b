"""Tasks that tell of themselves."""

from __future__ import annotations

from celery_steps import DurableTask
from worker.app import app, effect


@app.task(bind=True, base=DurableTask)
def talker(self: DurableTask, gate: str) -> list[str]:
    self.step.log.info("begun")
    one = self.step.run("one", lambda: effect(self.request.id, "one"))
    self.step.progress(1, 2, "one is done")
    self.step.log.info("one is done")

    def second() -> str:
        self.step.log.warning("at two")
        return effect(self.request.id, "two", gate)

    two = self.step.run("two", second)
    self.step.progress(2, 2)
    self.step.log.info("over")
    return [one, two]
