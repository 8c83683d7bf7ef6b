"""A Redis small enough to branch: each state is a number, and a script leads from one number to another.

It knows the commands that the scripts use, no others. `test_redis_in_python.py` compares it with a real server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from lupa import lua51

Hash = dict[str, str]
ZSet = dict[str, float]
#: Entries by their order, and the last id ever given.
Stream = tuple[tuple[tuple[str, tuple[str, ...]], ...], str]
Data = dict[str, Any]
Command = tuple[str, ...]
Normalise = Callable[[Data], None]

#: Key of the set of keys that have a time to live; no key of a caller's has this name.
EXPIRING = "\0expiring"


class ScriptError(str):
    """An error reply."""


class Status(str):
    """A status reply."""


class _Refused(Exception):
    """A command's error, on its way through Lua."""


@cache
def _lua() -> Any:
    return lua51.LuaRuntime(encoding="latin-1", unpack_returned_tuples=False)


class _Interpreter:
    """Runs scripts over one mutable copy of a state. Values are replaced, never changed in place."""

    def __init__(self) -> None:
        self.data: Data = {}
        self.now_us = 0
        self._compiled: dict[str, Any] = {}
        lua = _lua()
        self._table = lua.table_from
        self._type = lua51.lua_type
        self._bind = lua.eval("function(call, sha1hex) redis = {call = call, sha1hex = sha1hex} end")

    def run(self, source: str, keys: Iterable[str], arguments: Iterable[str]) -> Any:
        self._bind(self._call, lambda text: hashlib.sha1(text.encode("latin-1")).hexdigest())
        function = self._compiled.get(source)
        if function is None:
            body = source.partition("\n")[2] if source.startswith("#!") else source
            function = self._compiled[source] = _lua().eval(f"function(KEYS, ARGV) {body}\nend")
        try:
            return self._reply(function(self._table(list(keys)), self._table(list(arguments))))
        except _Refused as error:
            return ScriptError(error)
        except lua51.LuaError as error:
            return ScriptError(f"ERR {error}")

    def _reply(self, value: Any) -> Any:
        """Redis's rules for what a script returns: numbers are cut, false is nil, nil ends an array."""
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, (int, float)):
            return int(value)
        if isinstance(value, str):
            return value
        items = []
        position = 1
        while (item := value[position]) is not None:
            items.append(self._reply(item))
            position += 1
        return tuple(items)

    def _call(self, name: str, *arguments: Any) -> Any:
        texts = [a if isinstance(a, str) else f"{a:.17g}" for a in arguments]
        reply = self.command(name, texts)
        if reply is None:
            return False
        return self._nested(reply) if isinstance(reply, (list, tuple)) else reply

    def _nested(self, items: Iterable[Any]) -> Any:
        return self._table([self._nested(i) if isinstance(i, (list, tuple)) else False if i is None else i for i in items])

    def command(self, name: str, arguments: list[str]) -> Any:
        return getattr(self, f"_{name.lower()}")(*arguments)

    # -- keys -------------------------------------------------------------------------------------------------------

    def _put(self, key: str, value: Any) -> None:
        self.data[key] = value

    def _drop(self, key: str) -> None:
        self.data.pop(key, None)
        self._set_expiring(key, False)

    def _set_expiring(self, key: str, expiring: bool) -> bool:
        before: frozenset[str] = self.data.get(EXPIRING, frozenset())
        after = before | {key} if expiring else before - {key}
        if after:
            self.data[EXPIRING] = after
        else:
            self.data.pop(EXPIRING, None)
        return before != after

    def _time(self) -> list[str]:
        return [str(self.now_us // 1_000_000), str(self.now_us % 1_000_000)]

    def _exists(self, key: str) -> int:
        return int(key in self.data)

    def _del(self, key: str) -> int:
        was_there = key in self.data
        self._drop(key)
        return int(was_there)

    def _pexpire(self, key: str, milliseconds: str) -> int:
        if key not in self.data:
            return 0
        if int(milliseconds) <= 0:
            self._drop(key)
        else:
            self._set_expiring(key, True)
        return 1

    def _persist(self, key: str) -> int:
        return int(self._set_expiring(key, False))

    def _get(self, key: str) -> str | None:
        return self.data.get(key)

    def _set(self, key: str, value: str) -> Status:
        self._put(key, value)
        self._set_expiring(key, False)
        return Status("OK")

    # -- hashes -----------------------------------------------------------------------------------------------------

    def _hash(self, key: str) -> Hash:
        found: Hash = self.data.get(key, {})
        return found

    def _hget(self, key: str, field: str) -> str | None:
        return self._hash(key).get(field)

    def _hexists(self, key: str, field: str) -> int:
        return int(field in self._hash(key))

    def _hgetall(self, key: str) -> list[str]:
        return [text for pair in sorted(self._hash(key).items()) for text in pair]

    def _hset(self, key: str, *pairs: str) -> int:
        before = self._hash(key)
        after = {**before, **dict(zip(pairs[::2], pairs[1::2], strict=True))}
        self._put(key, after)
        return len(after) - len(before)

    def _hsetnx(self, key: str, field: str, value: str) -> int:
        return 0 if field in self._hash(key) else self._hset(key, field, value)

    def _hincrby(self, key: str, field: str, by: str) -> int:
        number = int(self._hash(key).get(field, "0")) + int(by)
        self._hset(key, field, str(number))
        return number

    def _hdel(self, key: str, *fields: str) -> int:
        before = self._hash(key)
        after = {field: value for field, value in before.items() if field not in fields}
        if after:
            self._put(key, after)
        else:
            self._drop(key)
        return len(before) - len(after)

    # -- sorted sets ------------------------------------------------------------------------------------------------

    def _zset(self, key: str) -> ZSet:
        found: ZSet = self.data.get(key, {})
        return found

    def _sorted(self, key: str) -> list[tuple[float, str]]:
        return sorted((score, member) for member, score in self._zset(key).items())

    def _zadd(self, key: str, *arguments: str) -> int:
        only_new = arguments[0] == "NX"
        score, member = arguments[only_new:]
        before = self._zset(key)
        if not (only_new and member in before):
            self._put(key, {**before, member: float(score)})
        return int(member not in before)

    def _zrem(self, key: str, member: str) -> int:
        before = self._zset(key)
        if member not in before:
            return 0
        after = {m: score for m, score in before.items() if m != member}
        if after:
            self._put(key, after)
        else:
            self._drop(key)
        return 1

    def _zscore(self, key: str, member: str) -> str | None:
        score = self._zset(key).get(member)
        return None if score is None else _number(score)

    def _zcard(self, key: str) -> int:
        return len(self._zset(key))

    def _zrange(self, key: str, start: str, stop: str, withscores: str = "") -> list[str]:
        last = int(stop) + 1
        pairs = self._sorted(key)[int(start) : last or None]
        return [text for score, m in pairs for text in ((m, _number(score)) if withscores else (m,))]

    def _zrangebyscore(self, key: str, low: str, high: str, _limit: str, offset: str, count: str) -> list[str]:
        found = [member for score, member in self._sorted(key) if float(low) <= score <= float(high)]
        return found[int(offset) :][: int(count)]

    def _zrangebylex(self, key: str, low: str, high: str, _limit: str = "", offset: str = "0", count: str = "-1") -> list[str]:
        def within(member: str) -> bool:
            above = low == "-" or member > low[1:] or f"[{member}" == low
            return above and (high == "+" or member < high[1:] or f"[{member}" == high)

        found = [member for _, member in self._sorted(key) if within(member)][int(offset) :]
        return found if int(count) < 0 else found[: int(count)]

    # -- streams ----------------------------------------------------------------------------------------------------

    def _stream(self, key: str) -> Stream:
        found: Stream = self.data.get(key, ((), "0-0"))
        return found

    def _xadd(self, key: str, *arguments: str) -> str | None:
        only_old = arguments[0] == "NOMKSTREAM"
        id, *fields = arguments[3:] if arguments[0] == "MAXLEN" else arguments[only_old:]  # nothing here gets that long
        if only_old and key not in self.data:
            return None
        entries, last = self._stream(key)
        if id == "*":
            now, (ms, n) = self.now_us // 1000, _order(last)
            id = f"{now}-0" if now > ms else f"{ms}-{n + 1}"
        if _order(id) <= _order(last):
            raise _Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        self._put(key, ((*entries, (id, tuple(fields))), id))
        return id

    def _xdel(self, key: str, id: str) -> int:
        entries, last = self._stream(key)
        left = tuple(entry for entry in entries if entry[0] != id)
        if len(left) < len(entries):
            self._put(key, (left, last))
        return len(entries) - len(left)

    def _between(self, key: str, start: str, end: str) -> list[tuple[str, tuple[str, ...]]]:
        low = (0, 0) if start == "-" else _order(start.lstrip("("))
        high = (2**64, 0) if end == "+" else _order(end)
        return [entry for entry in self._stream(key)[0] if low <= _order(entry[0]) <= high and start != f"({entry[0]}"]

    def _xrange(self, key: str, start: str, end: str, _count: str = "", count: str = "") -> list[tuple[str, tuple[str, ...]]]:
        return self._between(key, start, end)[: int(count) if count else None]

    def _xrevrange(self, key: str, end: str, start: str, _count: str = "", count: str = "") -> list[tuple[str, tuple[str, ...]]]:
        return self._between(key, start, end)[::-1][: int(count) if count else None]


def _order(id: str) -> tuple[int, int]:
    ms, _, n = id.partition("-")
    return int(ms), int(n or 0)


def _number(score: float) -> str:
    return f"{score:.17g}"


def _frozen(value: Any) -> Any:
    return frozenset(value.items()) if isinstance(value, dict) else value


class Redis:
    """All states seen so far. A state is a number; 0 is the empty one."""

    def __init__(self, scripts: dict[str, str], *, now_us: int, normalise: Normalise | None = None) -> None:
        """
        Args:
            scripts: Lua source by name; `EVALSHA` takes the name for the hash.
            now_us: what TIME answers, in microseconds.
            normalise: called with the data after each script that wrote; may simplify it, by replacing values.
        """
        self.scripts = scripts
        self.now_us = now_us
        self.normalise = normalise
        self._interpreter = _Interpreter()
        self._states: list[Data] = [{}]
        self._numbers: dict[frozenset[Any], int] = {frozenset(): 0}
        self._memo: dict[tuple[int, Command], tuple[int, Any]] = {}

    def at(self, now_us: int) -> None:
        """From now on TIME answers this."""
        self.now_us = now_us
        self._memo.clear()

    def data(self, state: int) -> Data:
        """The keys of a state and their values, to be looked at only."""
        return self._states[state]

    def number(self, data: Data) -> int:
        """The state that holds `data`."""
        frozen = frozenset((key, _frozen(value)) for key, value in data.items())
        number = self._numbers.setdefault(frozen, len(self._states))
        if number == len(self._states):
            self._states.append(data)
        return number

    def call(self, state: int, command: Command) -> tuple[int, Any]:
        """The state after one command and its reply: None, int, text, or a tuple of these; ScriptError."""
        found = self._memo.get((state, command))
        if found is None:
            found = self._memo[state, command] = self._call(state, command)
        return found

    def _call(self, state: int, command: Command) -> tuple[int, Any]:
        interpreter = self._interpreter
        interpreter.data = dict(self._states[state])
        interpreter.now_us = self.now_us
        name, *arguments = command
        if name == "EVALSHA":
            script, count, *rest = arguments
            reply = interpreter.run(self.scripts[script], rest[: int(count)], rest[int(count) :])
        else:
            try:
                reply = interpreter.command(name, arguments)
            except _Refused as error:
                reply = ScriptError(error)
            reply = tuple(reply) if isinstance(reply, list) else reply
        if self.normalise is not None and interpreter.data != self._states[state]:
            self.normalise(interpreter.data)
        return self.number(interpreter.data), reply
