"""The payment service's books, in SQLite: every call that came in, and every effect that it had."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a worker asks for, in the order of the work; all but the first change something.
KINDS = ("orders", "charges", "reservations", "shipments")

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    n INTEGER PRIMARY KEY, at REAL, kind TEXT, order_id INTEGER, process INTEGER, repeated INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS effects (
    n INTEGER PRIMARY KEY, kind TEXT, order_id INTEGER, idempotency_key TEXT UNIQUE, request TEXT);
CREATE INDEX IF NOT EXISTS calls_of_order ON calls (order_id, at);
CREATE INDEX IF NOT EXISTS calls_of_process ON calls (process, at);
"""


@dataclass(frozen=True)
class Call:
    """One call that came in; `at` is the time in seconds since the epoch."""

    at: float
    kind: str
    order_id: int
    process: int


class Ledger:
    """Written by the service, read by who plays the demo."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")  # the demo kills workers, not the service
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    def came_in(self, kind: str, order_id: int, process: int) -> int:
        """Write down a call as it comes in. Returns its number."""
        return self._write(
            "INSERT INTO calls (at, kind, order_id, process) VALUES (?, ?, ?, ?)",
            (time.time(), kind, order_id, process),
        )

    def take_effect(self, call: int, kind: str, order_id: int, key: str | None, request: dict[str, Any]) -> int:
        """Charge, reserve or ship, and return the effect's number. The same idempotency key takes effect once."""
        try:
            return self._write(
                "INSERT INTO effects (kind, order_id, idempotency_key, request) VALUES (?, ?, ?, ?)",
                (kind, order_id, key, json.dumps(request)),
            )
        except sqlite3.IntegrityError:
            self._write("UPDATE calls SET repeated = 1 WHERE n = ?", (call,))
            return self._number("SELECT n FROM effects WHERE idempotency_key = ?", key)

    def calls(self) -> int:
        return self._number("SELECT count(*) FROM calls")

    def repeated(self) -> int:
        """How many calls were answered from their idempotency key, without a second effect."""
        return self._number("SELECT count(*) FROM calls WHERE repeated")

    def doubles(self, kind: str) -> int:
        """How many effects of this kind there are beyond one for each order."""
        return self._number("SELECT count(*) - count(DISTINCT order_id) FROM effects WHERE kind = ?", kind)

    def charges_of(self, order_id: int) -> int:
        return self._number("SELECT count(*) FROM effects WHERE kind = 'charges' AND order_id = ?", order_id)

    def shipped(self) -> set[int]:
        """The orders that are through."""
        return {row[0] for row in self._read("SELECT DISTINCT order_id FROM effects WHERE kind = 'shipments'")}

    def last_call_of(self, process: int, before: float) -> Call | None:
        """What a process last asked for: if it was killed then, the order that it was at."""
        return self._call("process = ? AND at <= ? ORDER BY at DESC", process, before)

    def next_call_for(self, order_id: int, after: float, not_by: int) -> Call | None:
        """When another process took an order up again, and where."""
        # A request of the killed process may still have been on its way.
        return self._call("order_id = ? AND at > ? AND process != ? ORDER BY at", order_id, after, not_by)

    def shipped_since(self, order_id: int, after: float) -> bool:
        return self._call("order_id = ? AND at > ? AND kind = 'shipments'", order_id, after) is not None

    def _call(self, condition: str, *values: object) -> Call | None:
        rows = self._read(f"SELECT at, kind, order_id, process FROM calls WHERE {condition} LIMIT 1", *values)
        return Call(*rows[0]) if rows else None

    def _number(self, query: str, *values: object) -> int:
        return int(self._read(query, *values)[0][0])

    def _read(self, query: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _write(self, query: str, values: tuple[object, ...]) -> int:
        with self._lock:
            return int(self._db.execute(query, values).lastrowid or 0)
