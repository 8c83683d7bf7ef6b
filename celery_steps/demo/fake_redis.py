"""fakeredis over TCP, for machines without a Redis: `python -m celery_steps.demo.fake_redis` prints its port."""

from __future__ import annotations

from typing import Any

from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler

from celery_steps.demo.processes import serve_until_stdin_ends


class _Handler(TCPFakeRequestHandler):
    """fakeredis hangs up after an error reply, NOSCRIPT for one. A real server does not."""

    def setup(self) -> None:
        super().setup()
        read = self.current_client.read_response

        def read_response(*args: Any, **options: Any) -> Any:
            try:
                return read(*args, **options)
            except Exception as error:
                return error  # is sent as an error reply

        self.current_client.read_response = read_response  # type: ignore[method-assign]


if __name__ == "__main__":
    server = TcpFakeServer(("127.0.0.1", 0), bind_and_activate=False)
    server.RequestHandlerClass = _Handler
    server.request_queue_size = 128
    server.server_bind()
    server.server_activate()
    serve_until_stdin_ends(server)
