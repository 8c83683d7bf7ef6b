"""`celery -A proj steps web`: a real server, its live updates, and its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery

from celery_steps import Runs
from command_line import run
from delivering import deliver
from servers import wait_until

ROOT = Path(__file__).parent.parent.parent


class Console:
    """`celery -A proj steps web --port 0 ...` as a process of its own."""

    def __init__(self, app: Celery, folder: Path, *options: str) -> None:
        (folder / "proj.py").write_text(
            "from types import SimpleNamespace\n"
            "from celery import Celery\n"
            "from celery_steps.cli import steps\n"
            f"app = Celery({app.main!r}, broker={app.conf.broker_url!r})\n"
            f"app.conf.steps_backend = {app.conf.steps_backend!r}\n"
            "steps(obj=SimpleNamespace(app=app))\n"  # as `celery -A proj steps`, which needs an installed package
        )
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "proj.py", "web", "--port", "0", *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._says_where, message=self.text)
        self.port = urlsplit(str(self._says_where())).port

    def text(self) -> str:
        return self.log.read_text()

    def _says_where(self) -> str | None:
        assert self.process.poll() is None, self.text()
        found = re.search(r"console: (http://\S+)", self.text())
        return found and found[1]

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        with closing(self.connection()) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    @contextmanager
    def following(self, path: str) -> Iterator[Any]:
        with closing(self.connection()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield answer

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=20)


@pytest.fixture
def console(app: Celery, tmp_path: Path) -> Iterator[Console]:
    console = Console(app, tmp_path)
    yield console
    if console.process.poll() is None:
        console.end(signal.SIGKILL)


def heard(stream: Any) -> tuple[str, dict[str, str]]:
    """The next event of a stream."""
    kind = ""
    while True:
        line = stream.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        if line.startswith("data: "):
            return kind, json.loads(line.removeprefix("data: "))


def test_the_console_serves_follows_and_ends(console: Console, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    status, page = console.get("/run/one")
    assert status == 200
    (version,) = re.findall(r'data-version="(\w+)"', page)
    with console.following(f"/run/one/live?since={version}") as one, console.following("/live") as everything:
        assert heard(everything)[0] == "changed"
        deliver(order, "book", "wait", id="two")
        assert heard(everything)[0] == "changed"
        Runs(order.app).cancel("one")
        assert heard(one)[0] == "changed"
        assert console.get("/", Host="evil.example")[0] == 400
        assert console.end(signal.SIGINT) == 0  # with viewers, who are sent home
        assert one.read().strip() == everything.read().strip() == b""
    assert "Traceback" not in console.text()
    assert "rror" not in console.text()


def test_the_console_ends_when_it_is_asked_to_terminate(app: Celery, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")
    console = Console(app, tmp_path, "--read-only", "--user", "ann", "--password-file", str(password), "--prefix", "/steps")
    assert console.get("/")[0] == 401
    status, page = console.get("/", Authorization="Basic YW5uOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==")
    assert status == 200
    assert 'href="/steps/static/console.css"' in page
    assert console.end(signal.SIGTERM) == -signal.SIGTERM
    assert "Traceback" not in console.text()


def test_it_does_not_open_itself_to_others_without_a_password(app: Celery) -> None:
    for options in (["--host", "0.0.0.0"], ["--host", "::"], ["--host", "192.168.1.5"], ["--allow-host", "steps.example"]):
        done = run(app, "web", "--port", "0", *options)
        assert done.exit_code == 2
        assert f"Everybody who reaches '{options[1]}' could look at runs and act on them" in done.stderr
        assert "--user and --password-file" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "LOCALHOST"])
def test_each_address_of_this_machine_is_served_without_a_password(
    app: Celery, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("celery_steps.web.server.bind", lambda host, port: socket.create_server(("127.0.0.1", 0)))
    monkeypatch.setattr("celery_steps.web.server.serve", lambda *arguments: served.append(arguments))
    done = run(app, "web", "--host", host, "--prefix", "/")
    assert done.exit_code == 0, done.output
    assert re.search(r"console: http://127\.0\.0\.1:\d+/  ", done.output)
    ((_, _, prefix),) = served
    assert prefix == ""


@pytest.mark.parametrize(
    ("user", "password", "code", "message"),
    [
        ("a:b", b"correct horse battery\n", 1, "the user's name has no colon"),
        ("ann", b"correct h\xf6rse battery\n", 2, "cannot be read as UTF-8 text"),
    ],
)
def test_a_user_or_a_password_that_cannot_be_is_told(
    app: Celery, tmp_path: Path, user: str, password: bytes, code: int, message: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(password)
    done = run(app, "web", "--port", "0", "--user", user, "--password-file", str(file))
    assert done.exit_code == code
    assert message in done.stderr


def test_a_prefix_without_a_slash_is_wrong_usage(app: Celery) -> None:
    done = run(app, "web", "--port", "0", "--prefix", "steps")
    assert done.exit_code == 2
    assert "--prefix is a path, which begins with a slash: /steps" in done.stderr


def test_a_password_is_long_and_in_a_file(app: Celery, tmp_path: Path) -> None:
    password = tmp_path / "password"
    for text in ("", "\n", "short\n"):
        password.write_text(text)
        done = run(app, "web", "--port", "0", "--user", "ann", "--password-file", str(password))
        assert done.exit_code == 2
        assert "at least 12 characters" in done.stderr
    for options in (["--user", "ann"], ["--password-file", str(password)]):
        done = run(app, "web", "--port", "0", *options)
        assert done.exit_code == 2
        assert "go together" in done.stderr
    assert run(app, "web", "--user", "ann", "--password-file", str(tmp_path / "none")).exit_code == 2


def test_a_port_that_is_taken_is_told(app: Celery) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(app, "web", "--port", str(port))
    assert done.exit_code == 1
    assert f"Port {port} of 127.0.0.1 cannot be listened at: Address already in use" in done.stderr


def test_wrong_settings_are_told_before_it_listens() -> None:
    done = run(Celery("wrong", broker="memory://", set_as_current=False), "web", "--port", "0")
    assert done.exit_code == 1
    assert "there is no Redis to keep journals in" in done.stderr


def test_without_the_extra_it_says_what_to_install(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_steps.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    done = run(app, "web", "--port", "0")
    assert done.exit_code == 1
    assert done.stderr == "The console needs uvicorn: pip install 'celery-steps[web]'\n"
