"""Links, chains, groups and chords around tasks that sleep, killed asleep and as they resume: each callback is called once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from celery.result import AsyncResult

from servers import RabbitServer, RedisServer
from worker.workers import Stage

#: What the task with this id, or about which the callback is, has done in the end.
_CALLBACKS = {
    "link": "callback",
    "link_error": "errback",
    "chain": "callback",
    "chord": "callback",
    "chord-with-a-chain": "callback",
    "chord-in-a-chord": "callback",
    "failing-chord": "errback",
}


class Canvases:
    """What was sent: its results by name, and its members that sleep."""

    def __init__(self, stage: Stage, seconds: float) -> None:
        self.stage = stage
        self.seconds = seconds
        self.results: dict[str, Any] = {}
        self.sleepers: list[AsyncResult] = []

    def napping(self, value: int, dies: bool = True) -> Signature:
        """A member whose process is killed as it resumes, or is not."""
        signature = self.stage.task("sleepers.napping", value, self.seconds, dies)
        self.sleepers.append(self.stage.app.AsyncResult(signature.freeze().id))
        return signature

    def collect(self, name: str) -> Signature:
        return self.stage.task("collect", name)

    def chord(self, name: str, *header: Signature) -> None:
        self.results[name] = chord(header, self.collect(name), app=self.stage.app).apply_async()

    def send(self) -> None:
        stage, add = self.stage, self.stage.task("add", 1, 2)
        linked = self.napping(1)
        self.results["link"] = linked.apply_async(link=stage.task("tell", "link"))
        failing = stage.task("sleepers.nap_and_fail", self.seconds, True).set(task_id="link_error")
        self.results["link_error"] = failing.apply_async(link_error=stage.task("tell_error"))
        self.results["chain"] = chain(self.napping(2), stage.task("add", 1), stage.task("tell", "chain")).apply_async()
        self.results["group"] = group([self.napping(3), self.napping(4, False)], app=stage.app).apply_async()
        self.chord("chord", self.napping(5), self.napping(6, False), add)
        self.chord("chord-with-a-chain", chain(self.napping(7), stage.task("add", 1)), add)
        inner = chord([self.napping(8), add.clone()], self.collect("inner"), app=stage.app)
        self.chord("chord-in-a-chord", inner, add.clone())
        body = self.collect("nobody").set(task_id="failing-chord").on_error(stage.task("tell_error"))
        header = [stage.task("sleepers.nap_and_fail", self.seconds), self.napping(9, False)]
        self.results["failing-chord"] = chord(header, body, app=stage.app).apply_async()

    def come_to(self) -> dict[str, Any]:
        """The results, as soon as they are there: the order of a chord's parts is the header's."""
        found = {name: self.stage.get(result) for name, result in self.results.items() if name in _VALUES and name != "group"}
        return {**found, "group": [self.stage.get(result) for result in self.results["group"]]}

    def calls(self, name: str) -> int:
        return self.stage.did(self.stage.app.AsyncResult(name)).count(_CALLBACKS[name])


_VALUES = {
    "link": 1,
    "chain": 3,
    "group": [3, 4],
    "chord": [5, 6, 3],
    "chord-with-a-chain": [8, 3],
    "chord-in-a-chord": [[8, 3], 3],
}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def canvases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvases]:
    """Sent; the worker was killed while all slept, and processes of the next one as their tasks resumed; all is done."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    options: dict[str, Any] = {}
    if request.param == "rabbitmq":
        rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
        options = {"broker": rabbit.url(), "task_default_queue": "canvases"}
    stage = Stage(server, tmp_path_factory.mktemp("canvases"), steps_lease_ttl=6, **options)
    try:
        worker = stage.start(concurrency=3)
        sent = Canvases(stage, 4)
        sent.send()
        for member in sent.sleepers:
            stage.wait_until_known(member, "suspended")
        worker.kill()
        stage.start(concurrency=3)
        yield sent
        stage.assert_nothing_left()
    finally:
        stage.end()
        server.stop()


def test_each_canvas_comes_to_its_result(canvases: Canvases) -> None:
    assert canvases.come_to() == _VALUES


def test_each_callback_is_called_once(canvases: Canvases, record_property: Callable[[str, object], None]) -> None:
    stage = canvases.stage
    for name, what in _CALLBACKS.items():
        stage.wait_for(stage.app.AsyncResult(name), what)
    for member in canvases.sleepers:
        stage.wait_until_settled(member, "succeeded")
    stage.assert_nothing_left()
    calls = {name: canvases.calls(name) for name in _CALLBACKS}
    record_property("callbacks", calls)
    assert calls == dict.fromkeys(_CALLBACKS, 1)


# -- longer than result_expires -----------------------------------------------------------------------------------------


def test_chords_whose_members_sleep_longer_than_results_are_kept(make_stage: Callable[..., Stage]) -> None:
    """Redis: their parts, sizes and saved headers are kept for as long as a member sleeps."""
    stage = make_stage(result_expires=3)
    stage.start(concurrency=3)
    sent, add = Canvases(stage, 6.5), stage.task("add", 1, 2)
    sent.chord("plain", sent.napping(1, False), add)
    sent.chord("chain", chain(sent.napping(2, False), stage.task("add", 1)), add.clone())
    sent.chord("group", group([add.clone(), sent.napping(3, False)], app=stage.app), add.clone())
    sent.chord("chord", chord([sent.napping(4, False), add.clone()], sent.collect("inner"), app=stage.app), add.clone())
    expected = {"plain": [1, 3], "chain": [3, 3], "group": [3, 3, 3], "chord": [[4, 3], 3]}
    for name in expected:
        stage.wait_for(stage.app.AsyncResult(name), "callback")
    assert {name: stage.get(result) for name, result in sent.results.items()} == expected
    stage.wait_until_idle()
    assert [sent.calls("chord") for name in expected] == [1] * 4
