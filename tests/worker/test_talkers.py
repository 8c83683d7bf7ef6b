"""What a run tells of itself outlives the process that said it, and is not said again."""

from __future__ import annotations

from servers import wait_until
from worker.workers import Stage


def test_a_run_whose_process_is_killed_has_said_every_line_once(stage: Stage) -> None:
    result = stage.send("talkers.talker", "two")
    stage.wait_for(result, "two")
    assert result.state == "PROGRESS"
    assert result.info == {"current": 1, "total": 2, "message": "one is done"}
    stage.kill_in(result, "two")
    stage.open_gate(result)
    assert stage.get(result) == ["one", "two"]
    stage.wait_until_settled(result, "succeeded")
    lines = [(line.message, line.key, line.attempt) for line in stage.runs.logs(result.id)]
    assert lines == [("begun", "", 1), ("one is done", "", 1), ("at two", "two", 1), ("at two", "two", 2), ("over", "", 2)]
    progress = stage.runs.get(result.id).progress
    assert progress is not None
    assert progress.current == 2
    log = "\n".join(worker.text() for worker in stage.workers)
    wait_until(lambda: sum(worker.text().count("over") for worker in stage.workers) == 1)
    assert log.count("] begun") == 1
