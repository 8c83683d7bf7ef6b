"""Debian's Chromium without a window, and a console that it can open."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from playwright.sync_api import Browser, sync_playwright
from starlette.applications import Starlette

from servers import server_is_missing, wait_until


@contextmanager
def browsing() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        server_is_missing("chromium")
    with sync_playwright() as playwright:
        # It loads nothing but our own pages; its sandbox does not start as root.
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(console: Starlette) -> Iterator[str]:
    """The address of a console that is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(console, log_level="warning", lifespan="off", ws="none"))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, message="the console does not answer")
        yield f"http://localhost:{listener.getsockname()[1]}"
    finally:
        console.state.live.close()
        server.should_exit = True
        thread.join()
        listener.close()
