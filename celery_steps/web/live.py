"""Server-sent events: who looks at a page is told when there is something new.

One poller follows each run that is looked at, and one the list, however many look on; it ends with the last of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager

from starlette.responses import StreamingResponse
from starlette.types import Send

from celery_steps.errors import RunRefused, StepsError
from celery_steps.escape import safe

logger = logging.getLogger(__name__)

#: Seconds between two looks.
_PACE = 1.0
#: Seconds after which a comment shows whether the viewer is still there.
_QUIET = 15.0
#: Seconds after which a viewer has to come again, and so to be let in again.
_LONGEST = 600.0
_MOST_FOLLOWED, _MOST_VIEWERS = 200, 1000


class Crowded(StepsError):
    """Too many look on at once: look again later."""


class EventStream(StreamingResponse):
    """Sends events for as long as the viewer is there; then whatever follows for it is given up."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        # X-Accel-Buffering: nginx would hold events back.
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)


class _Poller:
    """What is known of one run, or of the list, and who waits for more."""

    def __init__(self) -> None:
        self.viewers = 0
        self.version = ""
        self.event = ""  # as it is sent to viewers
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def tell(self, event: str) -> None:
        """After each look, whether it showed anything new or not."""
        self.event = event
        self.news.set()
        self.news = asyncio.Event()  # those who waited have the one before


class Live:
    """The pollers of one console. They ask Redis in a few threads of their own: a slow one holds up no page."""

    def __init__(self, version: Callable[[str | None], str]) -> None:
        self._version = version
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="steps-live")
        self._pollers: dict[str | None, _Poller] = {}
        self._over = False

    @property
    def followed(self) -> int:
        """How many pollers are at work."""
        return len(self._pollers)

    def close(self) -> None:
        """Send every viewer away."""
        self._over = True
        for poller in self._pollers.values():
            poller.news.set()

    async def events(self, name: str | None, seen: str) -> AsyncGenerator[str, None]:
        """Events of a run, or of the list, for one viewer, as text/event-stream.

        Args:
            name: the run; None: the list.
            seen: the version that the viewer has.
        """
        clock = asyncio.get_running_loop().time
        end, last = clock() + _LONGEST, clock()
        yield "retry: 2000\n\n"
        async with self._following(name) as poller:
            sent = _changed(seen) if seen else ""
            while not self._over and clock() < end:
                news = poller.news
                if poller.event not in ("", sent):
                    sent, last = poller.event, clock()
                    yield sent
                    if sent.startswith("event: gone"):
                        return
                elif clock() - last >= _QUIET:
                    last = clock()
                    yield ": still here\n\n"
                if news is poller.news:
                    await news.wait()

    @asynccontextmanager
    async def _following(self, name: str | None) -> AsyncIterator[_Poller]:
        poller = self._pollers.get(name)
        if poller is None:
            poller = self._pollers[name] = _Poller()
            poller.task = asyncio.create_task(self._poll(name, poller))
        poller.viewers += 1
        try:
            yield poller
        finally:
            poller.viewers -= 1
            if not poller.viewers:
                assert poller.task is not None
                poller.task.cancel()
                self._pollers.pop(name, None)

    def check_room(self, name: str | None) -> None:
        """Raises Crowded if nobody more can look on."""
        full = name not in self._pollers and len(self._pollers) >= _MOST_FOLLOWED
        if full or sum(poller.viewers for poller in self._pollers.values()) >= _MOST_VIEWERS:
            raise Crowded

    async def _poll(self, name: str | None, poller: _Poller) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                poller.tell(_changed(await loop.run_in_executor(self._threads, self._version, name)))
            except RunRefused as error:
                poller.tell(_event("gone", {"text": safe(str(error))}))
            except StepsError as error:
                poller.tell(_event("trouble", {"text": safe(str(error))}))
            except Exception as error:  # whatever a damaged store comes to: the next look may be better
                logger.exception("The console cannot follow %r", name)
                poller.tell(_event("trouble", {"text": safe(repr(error))}))
            await asyncio.sleep(_PACE)


def _changed(version: str) -> str:
    return f"id: {version}\n{_event('changed', {'version': version})}"


def _event(kind: str, data: dict[str, str]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
