"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import hypothesis
import pytest

from servers import RabbitServer, RedisServer, assert_no_leaks

# Installed, pytest finds it by its entry point, under the same name.
pytest_plugins = ["celery_steps.testing"]

# The machine may be busy: how long an example took says nothing. The same examples each time, so that a failure is the change's;
# look for new ones with HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("steps", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steps"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # One more than there are processors: many tests wait for servers and workers.
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One RabbitMQ node for the whole test run: what uses it goes to one process.
    for item in items:
        if "rabbitmq_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("rabbitmq"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests of this process: take a database each, never stop it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis of the test's own, which it may stop, kill and restart; arguments as of RedisServer."""
    servers: list[RedisServer] = []

    def start(*, appendonly: bool = False, options: tuple[str, ...] = ()) -> RedisServer:
        servers.append(RedisServer(tmp_path_factory.mktemp("redis"), appendonly=appendonly, options=options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One RabbitMQ node, started when the first test asks for it."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture
def no_leaks(redis_server: RedisServer) -> Iterator[None]:
    """After the test, every key of a finished namespace has a time to live, in each database."""
    yield
    with redis_server.client() as client:
        databases = [int(name.removeprefix("db")) for name in client.info("keyspace")]
    for database in databases:
        with redis_server.client(database) as client:
            assert_no_leaks(client)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the crash test has done, summed over its programs."""
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    found = [value for report in reports for name, value in report.user_properties if name == "crash"]
    if found:
        total = {name: sum(len(n) if isinstance(n, list) else n for n in (one[name] for one in found)) for name in found[0]}
        terminalreporter.write_line(
            "crash test: {kills} kills in {runs} runs: {duplicates} duplicates, {lost} lost, {wrong} wrong, "
            "{repeated} repeated unrecorded effects, {callbacks_again} callbacks sent again before their run was settled".format(
                **total
            )
        )
    callbacks = [value for report in reports for name, value in report.user_properties if name == "callbacks"]
    if callbacks:
        kinds = {kind: [one[kind] for one in callbacks if kind in one] for kind in {k: 1 for one in callbacks for k in one}}
        counts = ", ".join(f"{kind} {'+'.join(map(str, counts))}" for kind, counts in kinds.items())
        terminalreporter.write_line(f"callbacks of tasks that slept and were killed, called per call: {counts}")


@pytest.fixture
def entry_points(tmp_path: Path) -> str:
    """The entry points of setup.cfg, as an installation writes them: the tests may run from a checkout."""
    config = ConfigParser()
    config.read(Path(__file__).parent.parent / "setup.cfg")
    folder = tmp_path / "celery_steps-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: celery-steps\nVersion: 0\n")
    lines = [f"[{group}]{lines}\n" for group, lines in config["options.entry_points"].items()]
    (folder / "entry_points.txt").write_text("".join(lines))
    return str(tmp_path)
