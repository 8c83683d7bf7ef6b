"""Any value that can be recorded, for property tests; and what it means that two are the same."""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

ZONES = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text()),
    st.sampled_from([ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns")]),
)
FOLD = st.integers(0, 1)
DATETIMES = st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), ZONES, FOLD)
TIMES = st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.times(), ZONES, FOLD)
TEXT = st.text(st.characters())  # with lone surrogates
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    TEXT,
    st.binary(),
    st.decimals(),
    st.sampled_from([Decimal("-0.00"), Decimal("NaN123"), Decimal("1E+1000"), Decimal("1.50")]),
    st.uuids(),
    st.timedeltas(),
    st.dates(),
    TIMES,
    DATETIMES,
)
KEYS = st.recursive(
    # A signalling NaN has no hash.
    ATOMS.filter(lambda atom: not isinstance(atom, Decimal) or not atom.is_snan()),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
VALUES = st.recursive(
    st.one_of(ATOMS, st.sets(KEYS, max_size=4), st.frozensets(KEYS, max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal in value and type at every depth; more exact than == (fold, zone, NaN, -0.0, exponents)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == float.hex(other)
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    if isinstance(one, datetime | time):
        return (repr(one), one.fold) == (repr(other), other.fold)
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one, other)) and all(map(same, one.values(), other.values()))
    if isinstance(one, set | frozenset):
        rest = list(other)
        for item in one:
            twin = next((index for index, candidate in enumerate(rest) if same(item, candidate)), None)
            if twin is None:
                return False
            rest.pop(twin)
        return not rest
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
