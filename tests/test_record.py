"""Records: what stands around a value, how `steps_codec` comes in, and what an unreadable one says."""

from __future__ import annotations

import pytest

from celery_steps.codec import Codec
from celery_steps.errors import ResultError

codec = Codec()


def test_too_large_a_value_names_its_size_the_limit_and_the_setting() -> None:
    small = Codec(max_size=1000)
    assert small.decode(small.encode(b"x" * 900)) == b"x" * 900
    with pytest.raises(ResultError, match="result takes 1,004 bytes, more than the 1,000 of steps_max_result_size"):
        small.encode(b"x" * 1000)
    assert small.decode(small.encode(b"x" * 1000, limit=False)) == b"x" * 1000


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "damaged"),
        (b"\x00\x01", "damaged"),
        (b"\x03\x01", "written by a newer version of celery-steps: upgrade this worker"),
        (b"\x02\x00\x01", "it was written with steps_codec: set that"),
        (b"\x01", "cannot be read"),
        (b"\x01\x01\x01", "cannot be read"),
        (b"\x01\xd4\x63\x00", "extension type 99 is unknown: damaged, or written by a newer version of celery-steps"),
        (b"\x01\xc7\x00\x01", "out of place"),
        (b"\x01\x92\x01\xc7\x00\x01", "out of place"),
        (b"\x01\x91\xc7\x00\x04", "cannot be read"),
        (b"\x01\x92\xc7\x00\x02\x90", "unhashable"),
        (b"\x01\xd6\x11abcd", "cannot be read"),
        (b"\x01\xd6\xff\x00\x00\x00\x01", "out of place"),
        (b"\x01\xa1\xff", "cannot be read"),
        (b"\x01\xc7\x19\x1602024-01-01T00:00:00 @Q/Z", "time zone 'Q/Z' is not known here: install tzdata"),
    ],
)
def test_an_unreadable_record_is_named_with_the_reason(record: bytes, message: str) -> None:
    with pytest.raises(ResultError, match=message) as caught:
        codec.decode(record, namespace="order-42", key="charge", sequence=3)
    assert str(caught.value).startswith("the record of step 'charge' (occurrence 3) in namespace 'order-42' cannot be read: ")


def test_a_record_without_a_step_is_named_by_its_namespace() -> None:
    with pytest.raises(ResultError, match=r"^a record in namespace 'order-42' cannot be read"):
        codec.decode(b"", namespace="order-42")
    with pytest.raises(ResultError, match=r"^a record cannot be read"):
        codec.decode(b"")


class Sealing:
    """A transform as a cipher would be: it notices a record in another place, and damage."""

    def _seal(self, namespace: str, key: str, sequence: int) -> bytes:
        return f"{namespace}|{key}|{sequence}|".encode()

    def encode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        return self._seal(namespace, key, sequence) + data[::-1]

    def decode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        seal = self._seal(namespace, key, sequence)
        if not data.startswith(seal):
            raise KeyError("seal")
        return data.removeprefix(seal)[::-1]


class Unreachable(Sealing):
    def encode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        raise ConnectionError("key server")

    def decode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        raise ConnectionError("key server")


def test_a_transform_is_told_where_the_record_stands() -> None:
    sealing = Codec(Sealing())
    record = sealing.encode([1, (2,)], namespace="order-42", key="charge", sequence=3)
    assert record == b"\x02\x00order-42|charge|3|" + codec.encode([1, (2,)])[:0:-1]
    assert sealing.decode(record, namespace="order-42", key="charge", sequence=3) == [1, (2,)]
    with pytest.raises(ResultError, match=r"step 'ship'.*steps_codec does not accept it: KeyError\('seal'\)"):
        sealing.decode(record, namespace="order-42", key="ship", sequence=3)


def test_a_transform_and_the_lack_of_one_do_not_read_each_others_records() -> None:
    sealing = Codec(Sealing())
    with pytest.raises(ResultError, match="it was written with steps_codec: set that"):
        codec.decode(sealing.encode(1))
    with pytest.raises(ResultError, match="written without steps_codec, which is set"):
        sealing.decode(codec.encode(1))
    for newer in (b"\x03", b"\x02\x01k"):
        with pytest.raises(ResultError, match="newer version of celery-steps: upgrade this worker"):
            sealing.decode(newer)


def test_a_key_server_out_of_reach_is_no_damaged_record() -> None:
    unreachable = Codec(Unreachable())
    with pytest.raises(ConnectionError):
        unreachable.encode(1)
    with pytest.raises(ConnectionError):
        unreachable.decode(b"\x02\x00x")


def test_the_size_that_counts_is_the_one_that_is_stored() -> None:
    with pytest.raises(ResultError, match="takes 39 bytes, more than the 38"):
        Codec(Sealing(), max_size=38).encode("x" * 30, namespace="n", key="k", sequence=1)
