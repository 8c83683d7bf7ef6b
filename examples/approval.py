"""A large order is approved by people: the team is asked first, then its manager, and nobody's answer is a no.

Needs a Redis on localhost, and three terminals in this folder. DAY says how many seconds a day has here:

DAY=20 celery -A approval worker
python approval.py 42 90000                                                        sends the order, prints what came of it
celery -A approval steps emit decision '{"ok": true, "by": "ann"}' --to order-42   what a button in a web page would do
"""

import os
import sys
from typing import Any

from celery import Celery

from celery_steps import DurableTask, step

app = Celery("approval", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.steps_backend = "redis://localhost/2"

DAY = float(os.environ.get("DAY", 86_400))
LARGE = 50_000  # cents


def ask(who: str) -> None:
    print(f"mail to the {who}: may this order be sent?", flush=True)


def ship(order_id: int) -> str:
    print(f"order {order_id} is on its way", flush=True)
    return "shipped"


def decision() -> dict[str, Any]:
    """Asks one after the other; while nobody answers, no worker is kept."""
    for who, patience in (("team", 1 * DAY), ("manager", 2 * DAY)):
        step.run("ask", who, ask)
        answer = step.wait_for_event("decision", timeout=patience)
        if answer is not None:
            return dict(answer)
    return {"ok": False, "by": "nobody"}


@app.task(bind=True, base=DurableTask, namespace="order-{order_id}")
def sell(self: DurableTask, order_id: int, cents: int) -> str:
    if cents >= LARGE:
        answer = decision()
        if not answer["ok"]:
            return f"refused by {answer['by']}"
    return self.step.run("ship", order_id, ship)


if __name__ == "__main__":
    print(sell.delay(int(sys.argv[1]), int(sys.argv[2])).get())
