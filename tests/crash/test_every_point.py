"""A process is killed at every point where it sends, receives or has an effect: no recorded step runs again, no run is lost."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from servers import RedisServer, assert_no_leaks

TESTS = Path(__file__).parents[1]
#: Of programs.py, which needs a server to be imported. Those that take long come first.
PROGRAMS: tuple[str, ...] = ("retried", "chord", "replaced", "reopened", "sharing", "borrowing")
PROGRAMS += ("awaiting", "undoing", "once", "tried", "asleep")
PROGRAMS += ("linked", "failed", "quiet", "plain", "branching", "ignored")
DOUBLE_KILLS = int(os.environ.get("CRASH_DOUBLE_KILLS", "10"))
#: Each point with each reaction of the broker and the main process, not with one of them: CRASH_EVERY=1, three times as long.
EVERY = ["every"] if os.environ.get("CRASH_EVERY") else []
SEED = int(os.environ.get("CRASH_SEED", "1"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_kill_makes_a_recorded_step_run_again_or_loses_a_run(
    program: str, start_redis: Callable[..., RedisServer], record_property: Callable[[str, object], None]
) -> None:
    server = start_redis()
    environment = {**os.environ, "CRASH_REDIS": server.url().rpartition("/")[0], "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-m", "crash.every_point", program, str(DOUBLE_KILLS), str(SEED), *EVERY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    record_property("crash", found)
    violations = found["duplicates"] + found["lost"] + found["wrong"]
    assert not violations, "\n".join([f"{len(violations)} of {found['cases']} cases", *violations[:10], done.stderr[-2000:]])
    # The kills really hit: each point, and handlers between effect and record.
    assert found["kills"] >= found["points"]
    if program != "tried":  # there a kill takes the place of a try that fails
        assert found["repeated"] > 0
    with server.client(2) as store:
        assert_no_leaks(store)


def test_each_program_is_killed() -> None:
    module = ast.parse((TESTS / "crash" / "programs.py").read_text())
    (table,) = (node.value for node in module.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PROGRAMS")
    assert isinstance(table, ast.Dict)
    assert {ast.literal_eval(key) for key in table.keys if key} == set(PROGRAMS)
