"""Real workers of `worker.app`, and what tests ask of them: real processes, so that they can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import celery
import psutil
from celery import Celery
from celery.canvas import Signature
from celery.result import AsyncResult

from celery_steps import Runs
from celery_steps.settings import Settings
from celery_steps.store.keys import FINAL, RunId
from celery_steps.store.store import Store
from celery_steps.worker import runtime
from servers import RedisServer, assert_no_leaks, wait_until

#: (major, minor)
CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])
LEASE = 3.0
BROKER, BACKEND, STORE = 0, 1, 2
_TESTS = Path(__file__).parent.parent


class Effect(NamedTuple):
    """What a task did outside: a line of the ledger."""

    id: str
    what: str
    pid: int


class Worker:
    """`celery -A worker.app worker`, or of another module, in a session of its own."""

    def __init__(self, name: str, log: Path, environment: dict[str, str], pool: str, concurrency: int, app: str) -> None:
        self.name = f"{name}@test"
        self.log = log
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", self.name, "-P", pool]
        command += ["-c", str(concurrency), "-l", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=environment, cwd=_TESTS, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the worker ended while starting\n{self.text()}"
        return f"{self.name} ready." in self.text()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """A signal to the main process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for the main process and its children."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        psutil.wait_procs(family, timeout=10)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        """A warm shutdown; if that takes too long, everything is killed."""
        if self.has_ended():
            return
        self.send(signal.SIGTERM)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()


class Stage:
    """Broker, result backend, store, ledger and workers of some tests, and the client's side of the app."""

    def __init__(
        self, server: RedisServer, folder: Path, *, broker: str = "", backend: str | None = None, **settings: Any
    ) -> None:
        self.server = server
        self.folder = folder
        self.broker = broker or server.url(BROKER)
        self.backend = server.url(BACKEND) if backend is None else backend
        self.settings = {"steps_lease_ttl": LEASE, "steps_sweep_interval": 0.2, "worker_lost_wait": 0.3, **settings}
        self.app = Celery("worker-tests", broker=self.broker, backend=self.backend or None, set_as_current=False)
        both = ("task_default_queue", "task_default_queue_type", "result_expires")  # the client and its workers must agree
        self.app.conf.update({name: settings[name] for name in both if name in settings})
        self.app.conf.update(steps_backend=server.url(STORE), steps_lease_ttl=LEASE)
        self.runs = Runs(self.app)
        # Results are looked at here, never listened for: unsubscribing, whenever one is collected, would need the server.
        self.app.backend.on_task_call = lambda *_: None
        self.store = Store(Settings(backend=server.url(STORE), lease_ttl=LEASE))
        self.workers: list[Worker] = []
        self._ledger = folder / "ledger"
        self._ledger.touch()

    # -- workers ----------------------------------------------------------------------------------------------------

    def start(
        self, *, pool: str = "prefork", concurrency: int = 2, clock_ahead: float = 0, app: str = "worker.app", **settings: Any
    ) -> Worker:
        """Start a worker and wait until it is ready; its clock can be wrong by seconds."""
        environment = os.environ | {
            "CLOCK_AHEAD": str(clock_ahead),
            "PYTHONPATH": os.pathsep.join([str(_TESTS.parent), str(_TESTS)]),
            "STAGE": json.dumps(
                {
                    "folder": str(self.folder),
                    "settings": {
                        "broker_url": self.broker,
                        "result_backend": self.backend or None,
                        "steps_backend": self.server.url(STORE),
                        **self.settings,
                        **settings,
                    },
                }
            ),
        }
        name = f"worker{len(self.workers) + 1}"
        worker = Worker(name, self.folder / f"{name}.log", environment, pool, concurrency, app)
        self.workers.append(worker)
        wait_until(worker.is_ready, 60, lambda: f"the worker is not ready\n{worker.text()}")
        return worker

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        runtime.of(self.app).store.client.close()
        self.app.close()
        self.store.client.close()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def task(self, name: str, *args: Any, **options: Any) -> Signature:
        """A signature by name, as a client sends it that does not have the code."""
        return self.app.signature(_named(name), args=args, options=options)

    def send(self, name: str, *args: Any, namespace: str = "", **options: Any) -> AsyncResult:
        if namespace:
            options["headers"] = {"steps_namespace": namespace}
        return self.app.send_task(_named(name), args=args, **options)

    def open_gate(self, result: AsyncResult) -> None:
        """Let the handlers of this task go on that wait at its gate."""
        (self.folder / f"gate-{result.id}").touch()

    # -- looking ----------------------------------------------------------------------------------------------------

    def effects(self, result: AsyncResult, what: str = "") -> list[Effect]:
        """What this task did, in order."""
        lines = (line.split(" ") for line in self._ledger.read_text().splitlines())
        found = [Effect(id, did, int(pid)) for id, did, pid in lines]
        return [effect for effect in found if effect.id == result.id and what in ("", effect.what)]

    def did(self, result: AsyncResult) -> list[str]:
        return [effect.what for effect in self.effects(result)]

    def wait_for(self, result: AsyncResult, what: str, times: int = 1) -> int:
        """Wait until this task has done that so often; returns the process that did it last."""
        wait_until(
            lambda: len(self.effects(result, what)) >= times,
            30,
            lambda: f"{what} x {times}: has done {self.did(result)}\n{self._tails()}",
        )
        return self.effects(result, what)[-1].pid

    def kill_in(self, result: AsyncResult, what: str, times: int = 1) -> None:
        """SIGKILL for the process in which this happens."""
        os.kill(self.wait_for(result, what, times), signal.SIGKILL)

    def wait_until_accepted(self, result: AsyncResult) -> None:
        """Wait until a worker's main process knows which process has this task."""
        wait_until(
            lambda: any(
                request["id"] == result.id and request["worker_pid"]
                for requests in (self.app.control.inspect(timeout=1).active() or {}).values()
                for request in requests
            )
        )

    def fields(self, result: AsyncResult, namespace: str = "") -> dict[str, str]:
        """What the store holds of the newest run of this task, by field."""
        found = self.store.fields(namespace or result.id)
        runs = {name.removesuffix(":status") for name in found if name.endswith(":status")}
        mine = max((run for run in runs if RunId.parse(run).id == result.id), default="-", key=lambda r: RunId.parse(r).nesting)
        return {name.rpartition(":")[2]: value for name, value in found.items() if name.startswith(f"{mine}:")}

    def wait_until_settled(self, result: AsyncResult, status: str, namespace: str = "") -> None:
        """Wait until the run has ended as `status`; fail if it ends otherwise."""
        wait_until(
            lambda: self.fields(result, namespace).get("status") in FINAL,
            30,
            lambda: f"not settled: {self.fields(result, namespace)}, has done {self.did(result)}\n{self._tails()}",
        )
        assert self.fields(result, namespace)["status"] == status

    def wait_until_known(self, result: AsyncResult, status: str) -> None:
        """Wait until the run has this status."""
        wait_until(
            lambda: self.fields(result).get("status") == status,
            30,
            lambda: f"not {status}: {self.fields(result)}, has done {self.did(result)}\n{self._tails()}",
        )

    def get(self, result: AsyncResult, timeout: float = 30) -> Any:
        """The task's result; its exception is raised."""
        wait_until(result.ready, timeout, lambda: f"{result.state}, has done {self.did(result)}\n{self._tails()}")
        return result.get(timeout=5)

    def wait_until_idle(self) -> None:
        """Wait until the broker and the workers hold no message, so nothing can follow any more."""
        with self.server.client(BROKER) as client:
            wait_until(lambda: not client.exists("celery", "unacked"), 30, lambda: f"messages stay\n{self._tails()}")

    def assert_nothing_left(self) -> None:
        """No ticket waits, and each key of a finished namespace has a time to live."""
        with self.server.client(STORE) as client:
            wait_until(lambda: not list(client.scan_iter("steps:*:due:*")), 30, lambda: f"tickets stay\n{self._tails()}")
            assert_no_leaks(client)

    def _tails(self) -> str:
        for worker in self.workers:
            if not worker.has_ended():
                worker.send(signal.SIGUSR1)  # Celery logs what its threads do
        time.sleep(0.5)
        return "\n".join(f"-- {worker.name}\n{worker.text()[-6000:]}" for worker in self.workers)


def _named(task: str) -> str:
    return f"worker.{task}" if "." in task else f"worker.app.{task}"
