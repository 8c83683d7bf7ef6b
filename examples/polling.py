"""A parcel is watched until it has arrived: a loop that may live for weeks and keeps no worker between two looks.

Needs a Redis on localhost, and three terminals in this folder. HOUR says how many seconds an hour has here:

HOUR=2 celery -A polling worker
python polling.py 7
touch parcel-7                                               the parcel arrives
"""

import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from celery_steps import DurableTask

app = Celery("polling", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.steps_backend = "redis://localhost/2"

HOUR = float(os.environ.get("HOUR", 3600))
LOOKS = 24  # in one journal, which every resume reads


def ask_the_carrier(parcel: int) -> str:
    arrived = Path(f"parcel-{parcel}").exists()
    print(f"parcel {parcel}: {'arrived' if arrived else 'on its way'}", flush=True)
    return "arrived" if arrived else "on its way"


@app.task(bind=True, base=DurableTask, namespace="parcel-{parcel}")
def watch(self: DurableTask, parcel: int) -> Any:
    for _ in range(LOOKS):
        if self.step.run("look", parcel, ask_the_carrier) == "arrived":
            return f"parcel {parcel} has arrived"
        self.step.sleep("pause", 1 * HOUR)
    return self.replace(self.s(parcel))  # goes on under the same task id, with an empty journal


if __name__ == "__main__":
    print(watch.delay(int(sys.argv[1])).get())
