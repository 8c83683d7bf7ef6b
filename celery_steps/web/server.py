"""A server for the console alone: uvicorn, which sends its viewers home before it ends."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from celery_steps.errors import SettingsError


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. SettingsError if it cannot."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(
            f"Port {port} of {host} cannot be listened at: {error.strerror}. Give another --port or --host."
        ) from error


def address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(console: Starlette, listener: socket.socket, prefix: str = "") -> None:
    """Serve until a signal ends it."""
    config = uvicorn.Config(
        console,
        root_path=prefix,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("celery_steps.web").setLevel(logging.INFO)  # who did what
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it is done
        _Server(config, console).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, console: Starlette) -> None:
        super().__init__(config)
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.state.live.close()  # else it would wait for everybody who looks on
        await super().shutdown(sockets)
