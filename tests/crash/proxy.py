"""A TCP proxy before a Redis that makes one exchange go wrong."""

from __future__ import annotations

import enum
import socket
import threading
import time

from hiredis import Reader

#: Seconds for which a late reply is kept: longer than the clients here wait.
LATE = 0.4
_HANDSHAKE = (b"SETINFO", b"SELECT", b"HELLO")


class Fault(enum.Enum):
    REQUEST_LOST = "the connection breaks before the request arrives"
    REPLY_LOST = "the connection breaks before the reply arrives"
    REPLY_LATE = "the reply comes when its client has given up"
    REQUEST_REPEATED_LATE = "the connection breaks, and the request arrives two exchanges later all the same"
    CUT_OFF = "nothing passes any more, until it heals; the request is kept"


class Proxy:
    """Passes requests and replies, one exchange after the other on each connection."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._countdown = 0
        self._kept = b""
        self._cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def plan(self, fault: Fault, n: int) -> None:
        """From now on the nth exchange goes wrong."""
        with self._lock:
            self._fault, self._countdown, self._kept, self._cut = fault, n, b"", False

    def heal(self) -> bool:
        """Everything passes again. Returns whether the fault has happened; a request that was kept stays kept."""
        with self._lock:
            happened = self._fault is not None and self._countdown <= 0
            self._fault, self._cut = None, False
            return happened

    def release(self) -> None:
        """The request that was kept arrives now; its reply goes nowhere."""
        with self._lock:
            kept, self._kept = self._kept, b""
        if kept:
            with socket.create_connection(("127.0.0.1", self._upstream), timeout=5) as server:
                # The database that the client had selected.
                _exchange(server, self._select)
                _exchange(server, kept)

    def close(self) -> None:
        self._listener.close()

    # -- passing ----------------------------------------------------------------------------------------------------

    _select = b"*1\r\n$4\r\nPING\r\n"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
            else:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream), timeout=5) as server:
            try:
                while request := client.recv(1 << 20):
                    if self._cut:
                        return
                    if b"SELECT" in request:
                        self._select = request
                    fault = None if any(word in request for word in _HANDSHAKE) else self._next(request)
                    if fault in (Fault.REQUEST_LOST, Fault.REQUEST_REPEATED_LATE, Fault.CUT_OFF):
                        return
                    reply = _exchange(server, request)
                    if fault is Fault.REPLY_LOST:
                        return
                    if fault is Fault.REPLY_LATE:
                        time.sleep(LATE)
                    client.sendall(reply)
            except OSError:
                return

    def _next(self, request: bytes) -> Fault | None:
        """What happens to this exchange."""
        with self._lock:
            self._countdown -= 1
            if self._countdown == 0 and self._fault is not None:
                self._kept = request
                self._cut = self._fault is Fault.CUT_OFF
                return self._fault
            late = self._fault is Fault.REQUEST_REPEATED_LATE and self._countdown == -2
        if late:
            self.release()
        return None


def _exchange(server: socket.socket, request: bytes) -> bytes:
    """Send commands and read all their replies."""
    commands = Reader()
    commands.feed(request)
    awaited = 0
    while commands.gets() is not False:
        awaited += 1
    server.sendall(request)
    replies, raw = Reader(), b""
    while awaited:
        chunk = server.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server is gone")
        raw += chunk
        replies.feed(chunk)
        while awaited and replies.gets() is not False:
            awaited -= 1
    return raw
