"""The demo in two acts: the same orders and the same kills, first for the plain task, then for the durable one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from celery import Task
from rich.console import Console

from celery_steps.demo import chaos, report, shop
from celery_steps.demo.ledger import Ledger
from celery_steps.demo.payments import read_orders
from celery_steps.demo.processes import DemoFailed, leave_in_order, start_server, undisturbed
from celery_steps.demo.screen import Screen
from celery_steps.demo.servers import start_redis
from celery_steps.demo.workers import POOL, WORKERS, Kill, Worker

#: Seconds without any call after which the orders that are still open count as lost.
PATIENCE = 45.0


class Act:
    """All orders through one of the two tasks, under fire."""

    def __init__(self, stack: ExitStack, folder: Path, task: Task, redis_url: str) -> None:
        self._task = task
        path = folder / f"{task.queue}.sqlite"
        self._ledger = Ledger(path)
        stack.callback(self._ledger.close)
        log = folder / f"{task.queue}-payments.log"
        with undisturbed():
            payments, port = start_server("payments", [str(path)], log, "The payment service")
            stack.callback(payments.end)
        payments_url = f"http://127.0.0.1:{port}"
        environment = {"STEPS_DEMO_REDIS": redis_url, "STEPS_DEMO_PAYMENTS": payments_url, "no_proxy": "*"}
        self._workers: list[Worker] = []
        stack.callback(self._end_workers)
        with undisturbed():
            for number in range(1, WORKERS + 1):
                self._workers.append(Worker(number, task.queue, folder, environment))
        self._broker = stack.enter_context(shop.app.connection_for_read()).default_channel
        self._kills: list[Kill] = []
        self._sent: dict[int, str] = {}  # order: task id

    def play(self, orders: list[int], blows: list[chaos.Blow], screen: Screen) -> report.Figures:
        """Send the orders, kill while they are worked on, wait until all is quiet. Returns the figures."""
        for worker in self._workers:
            worker.wait_until_ready()
        start = time.monotonic()
        crisis = chaos.Chaos(blows, self._workers)
        calls, quiet_since = 0, start
        while not (crisis.over and self._all_done(orders)):
            self._send(orders)
            yours = self._yours()
            shipped = len(self._ledger.shipped())
            struck = crisis.strike(shipped, yours)
            new = [struck] if struck else []
            for worker in self._workers:
                new += worker.killed_by_others()
            self._kills += new
            screen.show(shipped, self._kills, new, self._ledger, yours)
            if new or self._ledger.calls() > calls:
                calls, quiet_since = self._ledger.calls(), time.monotonic()
            if time.monotonic() > quiet_since + PATIENCE:
                break
            time.sleep(0.1)
        seconds = time.monotonic() - start
        lost = len(orders) - sum(map(self._done, self._sent))
        screen.show(len(self._ledger.shipped()), self._kills, [], self._ledger, None)
        screen.show_the_end(self._ledger)
        return report.measure(self._ledger, self._kills, len(orders), lost, seconds)

    def _yours(self) -> int | None:
        """The pool process that the person who watches is invited to kill."""
        return next((pid for worker in self._workers for pid in worker.pool()), None)

    def _send(self, orders: list[int]) -> None:
        """Orders come in as they are worked off: an interrupted one is not to wait behind hundreds of others."""
        sent = len(self._sent)
        for order in orders[sent : sent + max(0, WORKERS * POOL - self._queued())]:
            self._sent[order] = self._task.delay(order).id

    def _queued(self) -> int:
        return int(self._broker.client.llen(self._task.queue))

    def _done(self, order: int) -> bool:
        return order in self._ledger.shipped() and shop.app.backend.get_state(self._sent[order]) == "SUCCESS"

    def _all_done(self, orders: list[int]) -> bool:
        """Every order is through, and no message is left that could begin one of them again."""
        return (
            self._ledger.shipped().issuperset(orders)
            and not self._queued()
            and not self._broker.client.hlen(self._broker.unacked_key)
            and all(map(self._done, orders))
        )

    def _end_workers(self) -> None:
        with undisturbed():
            for worker in self._workers:
                worker.ask_to_end()
            for worker in self._workers:
                worker.end()


def run(orders: int, kills: int, seed: int, *, fake: bool, as_json: bool) -> int:
    """Play both acts and show what came of it. Returns 0 if the durable task neither lost nor charged twice, else 1."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    leave_in_order()
    _keep_out_of_your_broker()
    folder = Path(tempfile.mkdtemp(prefix="celery-steps-demo-"))
    good = True
    console.print(f"{orders} orders, {kills} kills (seed {seed}), {WORKERS} workers with a pool of {POOL} each.")
    try:
        redis, plain, durable = _both_acts(folder, orders, chaos.plan(orders, kills, seed), console, fake=fake)
        good = durable.lost_orders == 0 and durable.double_charges == 0
    except DemoFailed as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; every process that the demo started has ended.")
        return 130
    finally:
        if good:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        result = {"redis": redis, "seed": seed, "plain": asdict(plain), "durable": asdict(durable), "good": good}
        print(json.dumps(result, indent=2))
    else:
        console.print(report.table(plain, durable), report.closing_words(durable))
    if not good:
        console.print(f"DurableTask lost an order or charged twice: please report it, with the logs in {folder}", style="red")
    return 0 if good else 1


def _keep_out_of_your_broker() -> None:
    """To Celery, CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the environment go before an app's own settings."""
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]


def _both_acts(
    folder: Path, orders: int, blows: list[chaos.Blow], console: Console, *, fake: bool
) -> tuple[str, report.Figures, report.Figures]:
    """Returns which Redis it was, and the figures of the plain and of the durable task."""
    with ExitStack() as stack:
        with undisturbed():
            redis = start_redis(folder, fake=fake)
            stack.callback(redis.process.end)
        shop.app.conf.update(shop.settings({"STEPS_DEMO_REDIS": redis.url}))
        console.print(f"Broker, results and journals: {redis.name}, private to this demo.")

        def act(task: Task, title: str) -> report.Figures:
            with ExitStack() as stack, Screen(console, title, orders) as screen:
                return Act(stack, folder, task, redis.url).play(sorted(read_orders())[:orders], blows, screen)

        return redis.name, act(shop.fulfil_plainly, "plain task, acks_late"), act(shop.fulfil, "DurableTask")
