"""Callbacks, chains, groups and chords around tasks that are killed: each exactly once."""

from __future__ import annotations

import os
import signal

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult

from worker.workers import Stage


def _killed_in_its_second_step(stage: Stage, result: AsyncResult) -> None:
    stage.kill_in(result, "two")
    stage.open_gate(result)


def test_link_is_called_once(stage: Stage) -> None:
    result = stage.send("passing_on", 1, "two", link=stage.task("tell", "linked"), task_id="linked")
    _killed_in_its_second_step(stage, result)
    assert stage.get(result) == 2
    stage.wait_for(result, "callback")
    stage.wait_until_idle()
    assert stage.did(result) == ["one", "two", "two", "callback"]


def test_link_error_is_called_once(stage: Stage) -> None:
    result = stage.send("failing", link_error=stage.task("tell_error"))
    _killed_in_its_second_step(stage, result)
    with pytest.raises(ValueError, match="it fails"):
        stage.get(result)
    stage.wait_for(result, "errback")
    stage.wait_until_settled(result, "failed")
    stage.wait_until_idle()
    assert stage.did(result) == ["one", "two", "two", "errback"]


def test_a_chain_goes_on_once(stage: Stage) -> None:
    last = chain(stage.task("passing_on", 1, "two"), stage.task("passing_on"), stage.task("passing_on")).apply_async()
    first = last.parent.parent
    _killed_in_its_second_step(stage, first)
    assert stage.get(last) == 4
    stage.wait_until_idle()
    assert stage.did(first) == ["one", "two", "two"]
    for result in (last.parent, last):
        assert stage.did(result) == ["one", "two"]


def test_a_group_has_each_result(stage: Stage) -> None:
    results = group([stage.task("passing_on", n, "two") for n in range(3)]).apply_async()
    for result in results:
        stage.wait_for(result, "two")
    os.kill(stage.wait_for(results[0], "two"), signal.SIGKILL)
    os.kill(stage.wait_for(results[1], "two"), signal.SIGKILL)
    for result in results:
        stage.open_gate(result)
    assert [stage.get(result) for result in results] == [1, 2, 3]


def test_a_chord_counts_each_member_once(stage: Stage) -> None:
    header = [stage.task("passing_on", 1, "two"), stage.task("passing_on", 2), stage.task("add", 1, 2)]
    body = chord(header, stage.task("collect", "the-chord"), app=stage.app).apply_async()
    first = body.parent[0]
    _killed_in_its_second_step(stage, first)
    assert sorted(stage.get(body)) == [2, 3, 3]
    stage.wait_until_idle()
    told = stage.app.AsyncResult("the-chord")
    assert stage.did(told) == ["callback"]


def test_a_chord_counts_a_member_that_retries_once(stage: Stage) -> None:
    header = [stage.task("retrying_once"), stage.task("retrying_once")]
    body = chord(header, stage.task("collect", "retried-chord"), app=stage.app).apply_async()
    assert stage.get(body) == [1, 1]
    stage.wait_until_idle()
    assert stage.did(stage.app.AsyncResult("retried-chord")) == ["callback"]


def test_a_chord_counts_a_member_that_is_revoked_between_retries(stage: Stage) -> None:
    header = [stage.task("retrying", 1, 3600), stage.task("add", 1, 2)]
    collect = stage.task("collect", "nobody").on_error(stage.task("tell_error"))
    body = chord(header, collect, app=stage.app).apply_async()
    member = body.parent[0]
    stage.wait_until_known(member, "retrying")
    member.revoke()
    stage.wait_until_settled(member, "cancelled")
    with pytest.raises(ChordError, match="revoked"):
        stage.get(stage.app.AsyncResult(body.id))
    stage.wait_until_idle()
    assert stage.did(body) == ["errback"]
