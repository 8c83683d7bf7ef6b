"""Values to bytes and back, exceptions too, and the fingerprint of an input. Never pickle.

values.py is the format, objects.py and hints.py know classes, lower.py and rebuild.py take objects apart and put them
together, fit.py makes objects of what people say, record.py is what a journal holds, failures.py is about exceptions,
hashing.py about inputs.
"""

from celery_steps.codec.failures import RecordedTraceback
from celery_steps.codec.fit import fit
from celery_steps.codec.hashing import HASH_VERSION, NO_INPUT_HASH, input_digest, input_hash
from celery_steps.codec.hints import PLAIN
from celery_steps.codec.record import Codec, Transform
from celery_steps.codec.values import MAX_DEPTH, pack, unpack, unpack_flat

__all__ = [
    "HASH_VERSION",
    "MAX_DEPTH",
    "NO_INPUT_HASH",
    "PLAIN",
    "Codec",
    "RecordedTraceback",
    "Transform",
    "fit",
    "input_digest",
    "input_hash",
    "pack",
    "unpack",
    "unpack_flat",
]
