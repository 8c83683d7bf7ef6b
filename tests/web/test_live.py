"""Live updates: one poller for all who look at the same, and none when nobody does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from celery import Celery
from starlette.testclient import TestClient

from celery_steps import RunRefused, Runs
from celery_steps.errors import StoreUnavailable
from celery_steps.web import create_app, live
from celery_steps.web.live import Crowded, EventStream, Live
from delivering import deliver


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PACE", 0.001)


class Source:
    """Stands for `Runs.version`: says what it is told to say, and counts how often it is asked for what."""

    def __init__(self) -> None:
        self.says: str | Exception = "v1"
        self.asked: list[str | None] = []

    def __call__(self, name: str | None) -> str:
        self.asked.append(name)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def hub(source: Source) -> Iterator[Live]:
    hub = Live(source)
    yield hub
    hub.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def heard(events: AsyncGenerator[str, None]) -> tuple[str, dict[str, str]]:
    """The next event's kind and data; the stream's own lines do not count."""
    async for text in events:
        if "event: " in text:
            fields = dict(line.split(": ", 1) for line in text.splitlines() if line)
            return fields["event"], json.loads(fields["data"])
    return "end", {}


def test_a_viewer_hears_of_what_it_has_not_seen_and_of_each_change(hub: Live, source: Source) -> None:
    async def main() -> None:
        async with aclosing(hub.events("one", "")) as events:
            assert await heard(events) == ("changed", {"version": "v1"})
            source.says = "v2"
            assert await heard(events) == ("changed", {"version": "v2"})

    run(main)


def test_a_viewer_that_comes_back_with_what_it_saw_hears_of_the_next_change_only(hub: Live, source: Source) -> None:
    async def main() -> None:
        async with aclosing(hub.events("one", "v1")) as events:
            next_one = asyncio.create_task(heard(events))
            await until(lambda: len(source.asked) > 5)
            assert not next_one.done()
            source.says = "v2"
            assert await next_one == ("changed", {"version": "v2"})

    run(main)


def test_all_who_look_at_the_same_share_one_poller_which_ends_with_the_last(hub: Live, source: Source) -> None:
    async def main() -> None:
        viewers = [hub.events("one", "") for _ in range(50)] + [hub.events(None, "")]
        for viewer in viewers:
            await heard(viewer)
        assert hub.followed == 2
        for viewer in viewers[1:]:
            await viewer.aclose()
        assert hub.followed == 1
        await viewers[0].aclose()
        assert hub.followed == 0
        asked = len(source.asked)
        await asyncio.sleep(0.02)
        assert len(source.asked) <= asked + 1  # one look may have been on its way

    run(main)


def test_a_viewer_that_is_cancelled_leaves_nothing_behind(hub: Live) -> None:
    async def main() -> None:
        async def view() -> None:
            async with aclosing(hub.events("one", "v1")) as events:
                async for _ in events:
                    pass

        viewer = asyncio.create_task(view())
        await until(lambda: hub.followed == 1)
        viewer.cancel()
        await asyncio.wait({viewer})
        assert hub.followed == 0

    run(main)


def test_a_browser_that_goes_away_frees_what_followed_for_it(hub: Live) -> None:
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if b"changed" in message.get("body", b""):
            gone.set()

    async def main() -> None:
        scope = {"type": "http", "method": "GET", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        await EventStream(hub.events("one", ""))(scope, receive, send)
        assert hub.followed == 0

    run(main)


def test_while_redis_is_away_viewers_are_told_once_and_again_when_it_is_back(hub: Live, source: Source) -> None:
    async def main() -> None:
        async with aclosing(hub.events("one", "v1")) as events:
            source.says = StoreUnavailable("no Redis")
            assert await heard(events) == ("trouble", {"text": "no Redis"})
            asked = len(source.asked)
            await until(lambda: len(source.asked) > asked + 5)
            source.says = "v1"
            assert await heard(events) == ("changed", {"version": "v1"})

    run(main)


def test_what_nobody_foresaw_does_not_end_the_updates(hub: Live, source: Source, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with aclosing(hub.events("one", "")) as events:
            source.says = ZeroDivisionError("odd")
            assert (await heard(events))[0] == "trouble"
            source.says = "v2"
            assert await heard(events) == ("changed", {"version": "v2"})

    run(main)
    assert "odd" in caplog.text


def test_a_run_that_is_gone_ends_the_stream(hub: Live, source: Source) -> None:
    async def main() -> None:
        source.says = RunRefused("There is no run")
        async with aclosing(hub.events("one", "")) as events:
            assert await heard(events) == ("gone", {"text": "There is no run"})
            assert await heard(events) == ("end", {})
        assert hub.followed == 0

    run(main)


def test_a_quiet_stream_shows_that_it_lives_and_ends_after_a_while(
    hub: Live, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUIET", 0.01)
    monkeypatch.setattr(live, "_LONGEST", 0.1)

    async def main() -> None:
        sent = [text async for text in hub.events("one", "v1")]
        assert sent[0] == "retry: 2000\n\n"
        assert ": still here\n\n" in sent

    run(main)


def test_an_end_sends_every_viewer_away(hub: Live) -> None:
    async def main() -> None:
        viewers = [asyncio.create_task(heard(hub.events(name, "v1"))) for name in ("one", "two", None)]
        await until(lambda: hub.followed == 3)
        hub.close()
        assert [await viewer for viewer in viewers] == [("end", {})] * 3

    run(main)


def test_a_slow_redis_holds_up_only_its_own_viewers(source: Source) -> None:
    free = threading.Event()

    def slow(name: str | None) -> str:
        if name is not None:
            free.wait(20)
        return source(name)

    hub = Live(slow)

    async def main() -> None:
        slow_one = asyncio.create_task(heard(hub.events("one", "")))
        assert await heard(hub.events(None, "")) == ("changed", {"version": "v1"})
        assert not slow_one.done()
        free.set()
        assert await slow_one == ("changed", {"version": "v1"})

    run(main)


def test_no_more_look_on_than_there_is_room_for(hub: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_FOLLOWED", 2)
    monkeypatch.setattr(live, "_MOST_VIEWERS", 3)

    async def main() -> None:
        viewers = [hub.events(name, "") for name in ("one", "two")]
        for viewer in viewers:
            await heard(viewer)
        hub.check_room("one")
        with pytest.raises(Crowded, match="look again later"):
            hub.check_room("three")
        await heard(hub.events("one", ""))
        with pytest.raises(Crowded):
            hub.check_room("one")

    run(main)


def test_the_stream_of_a_run_that_is_not_there_ends_at_once(console: TestClient) -> None:
    with console.stream("GET", "/run/nobody/live") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "There is no run 'nobody'" in answer.read().decode()


def test_a_page_and_its_stream_agree_on_what_is_known(app: Celery, console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    assert f'data-version="{Runs(app).version("one")}"' in console.get("/run/one").text
    assert f'data-version="{Runs(app).version()}"' in console.get("/").text


def test_a_full_console_says_so(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_VIEWERS", 0)
    answer = TestClient(create_app(app), base_url="http://localhost").get("/live")
    assert answer.status_code == 503
