"""The Redis of the simulation answers as a real one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import given, settings

from celery_steps.store.replies import Await
from servers import RedisServer
from simulation import requests
from simulation.redis_in_python import EXPIRING, Command, Redis, ScriptError
from simulation.requests import KEYS, NOW

_DATABASE = 17
#: Ids of which no clock comes to: after them a server counts up.
_AHEAD, _NEXT = "9000000000000-0", "9000000000000-1"
_ANY = "return redis.call(unpack(ARGV))"


@pytest.fixture(scope="module")
def real(redis_server: RedisServer) -> Iterator[Any]:
    client: Any = redis_server.client(_DATABASE, decode_responses=True)
    yield client
    client.flushdb()
    client.close()


def _plain(reply: Any) -> Any:
    return tuple(map(_plain, reply)) if isinstance(reply, (list, tuple)) else reply


def _evaluated(real: Any, source: str, keys: list[str], arguments: list[str]) -> Any:
    try:
        return _plain(real.eval(source, len(keys), *keys, *arguments))
    except redis.ResponseError as error:
        return ScriptError(error)


def _contents(real: Any) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for key in real.scan_iter():
        kind = real.type(key)
        if kind == "hash":
            contents[key] = real.hgetall(key)
        elif kind == "zset":
            contents[key] = dict(real.zrange(key, 0, -1, withscores=True))
        elif kind == "stream":
            contents[key] = real.execute_command("XRANGE", key, "-", "+")
        else:
            contents[key] = real.get(key)
    return contents


def _same(small: Redis, state: int, real: Any) -> None:
    data = dict(small.data(state))
    expiring = data.pop(EXPIRING, frozenset())
    theirs = _contents(real)
    assert set(data) == set(theirs)
    for key, value in theirs.items():
        if isinstance(value, (dict, str)):
            assert data[key] == value
        else:  # a stream
            pairs = [(id, [text for pair in fields.items() for text in pair]) for id, fields in value]
            assert [(id, list(fields)) for id, fields in data[key][0]] == pairs
        assert (real.pttl(key) > 0) == (key in expiring)


_key = st.sampled_from(["{t}a", "{t}b"])
_field = st.sampled_from(["f", "g", "h"])
_number = st.sampled_from(["0", "1", "2.5", "-3", "10"])
_name = st.sampled_from(["a", "a ", "a a", "a!", "b", "\x7f", "é"])
_id = st.sampled_from(["1-0", "1-1", "1-2", "2-0", "7-3"])


def _commands() -> st.SearchStrategy[tuple[str, ...]]:
    """Each type has its own keys, as in the scripts."""

    def on(kind: str, name: str, *rest: st.SearchStrategy[str] | str) -> st.SearchStrategy[tuple[str, ...]]:
        parts = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in rest]
        return st.tuples(st.just(name), _key.map(lambda key: f"{key}:{kind}"), *parts)

    return st.one_of(
        on("hash", "HSET", _field, _number),
        on("hash", "HSET", _field, _number, _field, _number),
        on("hash", "HSETNX", _field, _number),
        on("hash", "HGET", _field),
        on("hash", "HDEL", _field, _field),
        on("count", "HINCRBY", _field, st.sampled_from(["1", "-1", "5"])),
        on("zset", "ZADD", _number, _field),
        on("zset", "ZADD", "NX", _number, _field),
        on("zset", "ZREM", _field),
        on("zset", "ZSCORE", _field),
        on("zset", "ZCARD"),
        on("zset", "ZRANGE", "0", "0"),
        on("zset", "ZRANGE", "0", "-1", "WITHSCORES"),
        on("zset", "ZRANGEBYSCORE", "-inf", _number, "LIMIT", "0", st.sampled_from(["1", "100"])),
        on("names", "ZADD", "0", _name),
        on("names", "ZREM", _name),
        on("names", "ZRANGEBYLEX", _name.map("[{}".format), _name.map("({}".format)),
        on("names", "ZRANGEBYLEX", _name.map("({}".format), _name.map("[{}".format)),
        on("names", "ZRANGEBYLEX", "-", "+", "LIMIT", "0", "2"),
        on("names", "ZRANGEBYLEX", _name.map("({}".format), "+", "LIMIT", "0", "2"),
        on("stream", "XADD", _id, "f", _number),
        on("stream", "XDEL", _id),
        on("stream", "XADD", "NOMKSTREAM", _id, "f", _number),
        on("stream", "XRANGE", st.sampled_from(["-", "1-1", "(1-1", "2-0"]), "+", "COUNT", st.sampled_from(["1", "10"])),
        on("stream", "XREVRANGE", "+", "-", "COUNT", "1"),
        on("stream", "XREVRANGE", "+", "-"),
        on("text", "SET", _number),
        on("text", "GET"),
        on("zset", "EXISTS"),
        on("text", "DEL"),
        on("zset", "PEXPIRE", "900000"),
        on("hash", "PEXPIRE", st.sampled_from(["900000", "0"])),
        on("hash", "PERSIST"),
    )


@settings(max_examples=150)
@given(st.lists(_commands(), min_size=1, max_size=25))
def test_every_command_of_the_scripts_answers_as_in_redis(real: Any, commands: list[tuple[str, ...]]) -> None:
    real.flushdb()
    small, state = Redis({"any": _ANY}, now_us=0), 0
    for command in commands:
        state, reply = small.call(state, ("EVALSHA", "any", "0", *command))
        theirs = _evaluated(real, _ANY, [], list(command))
        assert isinstance(reply, ScriptError) == isinstance(theirs, ScriptError)
        if not isinstance(reply, ScriptError):
            assert reply == theirs
    _same(small, state, real)


def test_an_id_of_the_servers_own_is_its_time_or_follows_the_last_one(real: Any) -> None:
    real.flushdb()
    small, state = Redis({"any": _ANY}, now_us=1_500_000), 0
    state, first = small.call(state, ("EVALSHA", "any", "0", "XADD", "empty", "*", "f", "v"))
    assert first == "1500-0"
    assert real.execute_command("XADD", "empty", "*", "f", "v").endswith("-0")
    for words in (f"XADD s {_AHEAD} f v", "XADD s * f v", f"XDEL s {_NEXT}", "XADD s * f v"):
        command = words.split()
        state, reply = small.call(state, ("EVALSHA", "any", "0", *command))
        assert reply == _evaluated(real, _ANY, [], command)
    assert reply == _AHEAD.replace("-0", "-2")


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        ("return 3.9", 3),
        ("return -3.9", -3),
        ("return true", 1),
        ("return false", None),
        ("return nil", None),
        ("return {1, 'a', nil, 2}", (1, "a")),
        ("return {1, false, 2}", (1, None, 2)),
        ("return {{}, {{'x'}}}", ((), (("x",),))),
        ("return {redis.call('HGET', 'k', 'f') == false}", (1,)),
        ("return 2 ^ 40", 2**40),
        ("return redis.call('HINCRBY', 'k', 'f', 2) + 0.5", 2),
        ("return error('no')", ScriptError("no")),
        ("return nothing.here", ScriptError("no")),
    ],
)
def test_what_lua_returns_becomes_the_same_reply(real: Any, source: str, reply: Any) -> None:
    real.flushdb()
    _, ours = Redis({"it": source}, now_us=0).call(0, ("EVALSHA", "it", "0"))
    theirs = _evaluated(real, source, [], [])
    if isinstance(reply, ScriptError):
        assert isinstance(ours, ScriptError)
        assert isinstance(theirs, ScriptError)
    else:
        assert ours == theirs == reply


def _at(source: str, ms: int) -> str:
    """The script at a time of ours."""
    time = f"{{'{ms // 1000}', '{ms % 1000 * 1000}'}}"
    call = f"function(name, ...) if name == 'TIME' then return {time} end return redis.call(name, ...) end"
    return f"local redis = {{call = {call}}}\n{source}"


_SCRIPTS = requests.scripts()
_token = st.sampled_from(["a/1", "b/1"])
_nonce = st.sampled_from(["x", "y"])
_run = st.integers(0, 1)
_tip = st.sampled_from(["current", "current", "current", "other"])


@st.composite
def _requests(draw: st.DrawFn) -> Any:
    """A request, with its tip and entry id left open until the state is known."""
    token, run, name = draw(_token), draw(_run), draw(st.sampled_from([*_SCRIPTS]))
    late, ms = draw(_tip), draw(st.sampled_from([NOW, NOW + 40_000, NOW - 500_000]))
    nonce, retries, flag = draw(_nonce), draw(st.integers(0, 1)), draw(st.booleans())
    event, seen = draw(st.sampled_from(["e", "other", ""])), draw(st.sampled_from(["", _AHEAD, _NEXT]))
    awaits = draw(st.sampled_from([(), (Await("e", "k", b"m"),), (Await("e", "k", b"m"), Await("other", "l", b"m"))]))

    def command(fence: int, last: str, uid: str) -> Command | None:
        before, id = (f"{last} {uid}" if late == "current" else "other"), f"{fence}-{int(last.partition('-')[2] or 0) + 1}"
        after = f"{id} {uid}"
        of: dict[str, Callable[[], tuple[Command, ...]]] = {
            "claim": lambda: requests.binding(
                token, run, "claim", nonce, b"entry", retries=retries, message=b"m", expect=fence if flag else 0, known_only=False
            ),
            "commit": lambda: requests.binding(token, run, "commit", before, after, ((id, "step", b"v"),), record=flag),
            "suspend": lambda: requests.binding(
                token, run, "suspend", before, after, ((id, "suspend", b"v"),), delay=1000, awaits=awaits, seen=seen
            ),
            "receive": lambda: requests.binding(
                token, run, "receive", before, after, ((id, "step", b"v"),), ended=awaits[:flag], taken=(seen,) * bool(seen)
            ),
            "deliver": lambda: requests.deliver(event, nonce, run if flag else None, "k" if event and flag else ""),
            "retry": lambda: requests.binding(token, run, "retry", before, after, id, b"v", 1000, retries + 1, b"m2"),
            "finish": lambda: requests.binding(token, run, "finish", before, after, id, b"v"),
            "settle": lambda: requests.binding(token, run, "settle", "failed"),
            "release": lambda: requests.binding(token, run, "release", 500),
            "renew": lambda: requests.binding(token, run, "renew"),
            "abandon": lambda: requests.binding(token, run, "abandon"),
            "borrow": lambda: requests.borrower(token, run, "borrow", nonce, b"entry"),
            "giveback": lambda: requests.borrower(token, run, "giveback", before, after, ((id, "step", b"v"),) if flag else ()),
            "control": lambda: requests.store(run, "control", what="cancel", nonce=nonce, entry=b"v"),
            "verdict": lambda: requests.store(
                run, "verdict", process=token[:2], what="lost" if flag else "failed", nonce=nonce, entry=b"v", token="main"
            ),
            "sweep": requests.sweep,
        }
        return of[name]()[0] if name in of else None

    return name, ms, command


@settings(max_examples=150)
@given(st.lists(_requests(), min_size=1, max_size=30))
def test_every_script_does_what_it_does_in_redis(real: Any, drawn: list[Any]) -> None:
    real.flushdb()
    state, sources = 0, {}
    for name, ms, _ in drawn:
        sources[f"{name} at {ms}"] = _at(_SCRIPTS[name], ms)
    small = Redis(sources, now_us=0)
    old = ("XADD", KEYS.inbox, _AHEAD, "e", "data", "", "old")
    state, _ = small.call(state, old)
    real.execute_command(*old)
    for name, ms, build in drawn:
        fields = small.data(state).get(KEYS.run, {})
        last, _, uid = fields.get("tip", "1-0 u").partition(" ")
        command = build(int(fields.get("owner_fence", "1")), last, uid)
        if command is None:
            continue
        count = int(command[2])
        state, reply = small.call(state, ("EVALSHA", f"{name} at {ms}", *command[2:]))
        theirs = _evaluated(real, sources[f"{name} at {ms}"], list(command[3 : 3 + count]), list(command[3 + count :]))
        assert isinstance(reply, ScriptError) == isinstance(theirs, ScriptError), (name, reply, theirs)
        if not isinstance(reply, ScriptError):
            assert reply == theirs
    _same(small, state, real)
