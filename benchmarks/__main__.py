"""Print each budget as measured, next to PING in the same run. One argument narrows it: steps, workers, waiting, console."""

from __future__ import annotations

import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks import steps
from benchmarks.server import private_redis


def main(which: str) -> None:
    rows: list[tuple[str, str, str]] = []
    with private_redis() as url:
        if which in ("", "steps"):
            rows += steps.all_rows(url)
            rows += one_core(url)
        if which in ("", "workers"):
            os.environ["STEPS_BENCH_URL"] = url
            from benchmarks import workers

            with workers.worker(url):
                rows += workers.measure()
        if which in ("", "waiting"):
            os.environ["STEPS_BENCH_URL"] = url
            from benchmarks import waiting

            rows += waiting.measure(url)
        if which in ("", "console"):
            from benchmarks import console

            rows += console.measure(url)
    table = Table("budget", "measured", "allowed", title="celery-steps: what a step costs")
    for row in sorted(rows):
        table.add_row(*row)
    Console().print(table)


def one_core(url: str) -> list[tuple[str, str, str]]:
    """The same with client and server on one core."""
    (pid,) = subprocess.run(["pgrep", "-f", url.rsplit(":", 1)[1]], capture_output=True, text=True).stdout.split()[:1]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(int(pid), {min(cores)})
    os.sched_setaffinity(0, {min(cores)})
    try:
        return steps.fresh(f"{url}/1", "one core", "≤ 1.35 × PING; p99 ≤ 3.5 ×")
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
