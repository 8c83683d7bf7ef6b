"""Groups and chords whose members are suspended: Celery would forget them `result_expires` after it last heard of one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from celery.app.task import Context, Task
from celery.backends.redis import RedisBackend
from celery.result import GroupResult

from celery_steps.engine.entries import NEVER

logger = logging.getLogger("celery_steps")

#: What Celery 5.4 to 5.7 keeps of a group: saved result, parts, their ids, size and its correction.
_SUFFIXES = ("", ".j", ".d", ".s", ".t")

# Never less than it has: failures may be kept for longer than results.
_AT_LEAST = """
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left < tonumber(ARGV[1]) then redis.call('PEXPIRE', key, ARGV[1]) end
end
"""


def keep(task: Task, request: Context, away: int) -> int:
    """A member leaves its worker for `away` ms: keep the groups that wait for it.

    Returns the ms after which it must come back, to keep them again: another member's end may have shortened their time.
    """
    backend, groups = task.backend, groups_of(request)
    lasts = min((seconds for seconds in (_of_chord(backend), backend.expires) if seconds), default=0)
    if not groups or not lasts:
        return NEVER
    if isinstance(backend, RedisBackend):
        for group in groups:
            at_least(backend, _keys(backend, group), lasts * 1000)
        return max(1, int(lasts * 500))
    if away > lasts * 1000:
        logger.warning(
            "%s[%s] is suspended for longer than the result backend keeps its group or chord (%d s): the callback may never be "
            "called. Raise result_expires, or use the Redis result backend.",
            task.name, request.id, lasts,
        )  # fmt: skip
    return NEVER


def at_least(backend: Any, keys: list[str], ms: float) -> None:
    """Let these keys of the result backend live for so long, those that would expire before."""
    backend.client.eval(_AT_LEAST, len(keys), *keys, int(ms))


def groups_of(request: Context) -> list[str]:
    """The ids of the groups that wait for this request, or for what follows on it: the rest of a chain, a chord's callback."""
    found: dict[str, None] = {}
    todo: list[Any] = [{"group_id": request.group, "chord": request.chord, "chain": request.chain}]
    while todo:
        options = todo.pop()
        if options.get("group_id"):
            found[options["group_id"]] = None
        todo += (follower.get("options") or {} for follower in (options.get("chord"), *(options.get("chain") or ())) if follower)
    return list(found)


def _of_chord(backend: Any) -> float:
    return getattr(backend, "chord_expires", None) or 0  # Celery 5.7 has a time of its own for chords


def _keys(backend: Any, group: str) -> list[str]:
    keys = [backend.get_key_for_group(group, suffix) for suffix in _SUFFIXES]
    saved = GroupResult.restore(group, backend=backend)
    return keys if saved is None else [*keys, *(backend.get_key_for_task(id) for id in _members(saved))]


def _members(results: Any) -> Iterator[str]:
    for result in results.results:
        if isinstance(result, GroupResult):
            yield from _members(result)
        else:
            yield result.id
