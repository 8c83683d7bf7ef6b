"""The demo, as a person starts it, and the example to copy."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from celery_steps.__main__ import main
from celery_steps.demo.processes import DemoFailed
from celery_steps.demo.servers import start_redis
from servers import server_is_missing, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"


#: What a person may have in the environment for a project of theirs; nothing answers there.
FOREIGN = {
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/1",
    "http_proxy": "http://127.0.0.1:1",
}


class Demo:
    """`python -m celery_steps demo --json` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._result, self._progress = folder / "result.json", folder / "progress"
        command = [sys.executable, "-m", "celery_steps", "demo", "--json", *options]
        with self._result.open("w") as out, self._progress.open("w") as progress:
            self._process = subprocess.Popen(
                command, env=os.environ | FOREIGN, stdin=subprocess.DEVNULL, stdout=out, stderr=progress
            )

    def wait(self) -> int:
        """Returns its exit code."""
        return self._process.wait(timeout=150)

    def result(self) -> str:
        return self._result.read_text()

    def progress(self) -> str:
        return self._progress.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something like this."""
        return wait_until(lambda: list(re.finditer(pattern, self.progress())), 60, self.progress)[0]

    def family(self) -> list[psutil.Process]:
        """All that it has started."""
        return list(psutil.Process(self._process.pid).children(recursive=True))

    def press_ctrl_c(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        if self._process.poll() is None:
            family = self.family()
            self._process.terminate()
            _, alive = psutil.wait_procs(family, timeout=20)
            for process in alive:
                process.kill()
            self._process.wait()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start the demo with these options; whatever the test does, nothing of it is left afterwards."""
    demos: list[Demo] = []

    def start(*options: str) -> Demo:
        demos.append(Demo(tmp_path, *options))
        return demos[-1]

    yield start
    for demo in demos:
        demo.end()


@pytest.mark.parametrize("redis", ["a real server", "fakeredis"])
def test_the_durable_task_neither_loses_an_order_nor_charges_twice(start_demo: Callable[..., Demo], redis: str) -> None:
    if redis == "a real server" and not (shutil.which("redis-server") or shutil.which("valkey-server")):
        server_is_missing("redis-server or valkey-server")
    demo = start_demo("--orders", "24", "--kills", "6", *(["--fakeredis"] if redis == "fakeredis" else []))
    assert demo.wait() == 0, demo.progress()
    figures: dict[str, Any] = json.loads(demo.result())
    assert figures["redis"].startswith("fakeredis") == (redis == "fakeredis")
    durable = figures["durable"]
    assert durable["orders_interrupted"] > 0, demo.progress()
    assert durable["lost_orders"] == 0
    assert durable["double_charges"] == durable["double_reservations"] == durable["double_shipments"] == 0
    for act in (figures["plain"], durable):
        assert act["orders"] == 24
        assert act["kills"] == 6
        assert act["whole_workers_killed"] == 2


def test_it_tells_a_person_what_their_kill_did_and_ctrl_c_ends_every_process(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--fakeredis", "--orders", "400", "--kills", "0")
    victim = int(demo.says(r"kill -9 (\d+)")[1])
    os.kill(victim, signal.SIGKILL)
    demo.says(f"You killed pool process {victim}")
    family = demo.family()
    demo.press_ctrl_c()
    assert demo.wait() == 130
    assert "Traceback" not in demo.progress()
    assert demo.result() == ""
    assert len(family) >= 7  # fakeredis, the payment service, two workers, and what is left of their pools of two
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_without_any_redis_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DemoFailed, match=r"fakeredis.* pip install \"celery-steps\[demo\]\""):
        start_redis(tmp_path, fake=False)


def test_an_impossible_number_of_orders_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--orders", "0"])
    assert "--orders: must be a whole number from 1 to 400, not '0'" in capsys.readouterr().err


def test_the_example_fulfils_an_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fulfil = runpy.run_path(str(EXAMPLES / "quickstart.py"))["fulfil"]
    assert fulfil.apply((42,)).get() == ["charge order 42: done", "pack order 42: done", "ship order 42: done"]
    assert "charge order 42: second 1 of 5 in process " in capsys.readouterr().out
