"""The console in a real browser: Debian's Chromium, without a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect

from celery_steps import DurableTask, Runs
from celery_steps.web import create_app
from delivering import close, make_app
from servers import RedisServer
from web.chromium import browsing, serving

HERE = Path(__file__).parent

expect.set_options(timeout=30_000)  # the machine may be busy


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One browser for the whole test run: what uses it goes to one process.
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("browser"))


# Package-wide, not session-wide: while it is open, this thread has an event loop, which other tests would trip over.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="package")
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)

    @app.task(bind=True, base=DurableTask, name="shop.order", max_retries=5)
    def order(self: DurableTask, end: str = "ship", item: Any = "book") -> Any:
        price = self.step.run("price", item, lambda item: {"item": item, "cents": 500})
        self.step.log.info("priced", **price)
        with self.step.parallel(max_workers=1) as side_by_side:
            for part in ("stock", "credit"):
                side_by_side.run(f"check {part}", lambda: "fine")
        if end == "wait":
            self.step.wait_for_event("approved", "order.approved")
        elif end != "ship":
            raise ValueError(end)
        return self.step.run("ship", lambda: "shipped")

    @app.task(bind=True, base=DurableTask, name="shop.pay")
    def pay(self: DurableTask) -> Any:
        def charge() -> str:
            if self.step.attempt == 1:
                raise SoftTimeLimitExceeded
            return "charged"

        return self.step.run("charge", charge, at_most_once=True)

    yield app
    close(app)


@pytest.fixture
def runs(app: Celery) -> Runs:
    return Runs(app)


@pytest.fixture
def order(app: Celery) -> Any:
    return app.tasks["shop.order"]


@pytest.fixture
def pay(app: Celery) -> Any:
    return app.tasks["shop.pay"]


@pytest.fixture(scope="package")
def address(app: Celery) -> Iterator[str]:
    with serving(create_app(app)) as address:
        yield address


@pytest.fixture
def open_page(chromium: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens a page of a person with these preferences, as of Playwright's `new_context`. At the end nothing may have gone wrong
    in any of them: no error on the console, which is also where Chromium reports what the content security policy refused."""
    troubles: list[str] = []
    contexts = []

    def told(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            troubles.append(message.text)

    def answered(response: Response) -> None:
        if response.status >= 400 or not response.url.startswith((address, "data:")):
            troubles.append(f"{response.status} {response.url}")

    def open_page(**options: Any) -> Page:
        context = chromium.new_context(**{"base_url": address, "viewport": {"width": 1100, "height": 800}, **options})
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", told)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        page.on("response", answered)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()
