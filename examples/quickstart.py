"""A task to kill. Needs a Redis on localhost, and three terminals in this folder:

celery -A quickstart worker --concurrency 2
python quickstart.py
kill -9 <the process id that the worker printed last>         it carries on after the last completed step
"""

import os
import time

from celery import Celery

from celery_steps import DurableTask

app = Celery("quickstart", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.steps_backend = "redis://localhost/2"


def work(what: str) -> str:
    for second in range(5):
        print(f"{what}: second {second + 1} of 5 in process {os.getpid()}", flush=True)
        time.sleep(1)
    return f"{what}: done"


@app.task(bind=True, base=DurableTask, namespace="order-{order_id}")
def fulfil(self: DurableTask, order_id: int) -> list[str]:
    return [self.step.run(key, f"{key} order {order_id}", work) for key in ("charge", "pack", "ship")]


if __name__ == "__main__":
    print(fulfil.delay(int(time.time())).get())
