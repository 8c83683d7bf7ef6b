"""The world outside: a real HTTP server that knows the orders, charges cards, reserves stock and ships.

`python -m celery_steps.demo.payments LEDGER` prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from celery_steps.demo.ledger import KINDS, Ledger
from celery_steps.demo.processes import serve_until_stdin_ends


def read_orders() -> dict[int, dict[str, Any]]:
    """The orders of the CSV file, by id."""
    text = (resources.files("celery_steps.demo") / "orders.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    numbers = ("id", "quantity", "cents")
    return {int(row["id"]): {**row, **{name: int(row[name]) for name in numbers}} for row in rows}


class _Service(BaseHTTPRequestHandler):
    ledger: Ledger
    orders = read_orders()

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, request: dict[str, Any]) -> None:
        _, kind, number = self.path.split("/")
        order_id = int(number)
        if kind not in KINDS or order_id not in self.orders:
            self.send_error(404)
            return
        call = self.ledger.came_in(kind, order_id, int(self.headers["X-Process"]))
        # The effect is in the middle of the call, so a kill may come before it or after it.
        half = random.uniform(0.01, 0.05)
        time.sleep(half)
        if kind == "orders":
            reply = self.orders[order_id]
        else:
            key = self.headers["Idempotency-Key"]
            reply = {"id": self.ledger.take_effect(call, kind, order_id, key, request)}
        time.sleep(half)
        self._send(json.dumps(reply).encode())

    def _send(self, body: bytes) -> None:
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # who asked has been killed

    def log_message(self, format: str, *args: object) -> None:
        """The ledger is the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    _Service.ledger = Ledger(Path(sys.argv[1]))
    serve_until_stdin_ends(_Server(("127.0.0.1", 0), _Service))
