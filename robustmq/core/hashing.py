# cython: annotation_typing=False, cdivision=True

"""Hashes that are stored or sent: they never change, and do not depend on the machine.

`topic_hash` and `key_hash` say which shard a log or a durable machine lives in, so a data directory
depends on them.
`murmur2` is the one of Kafka's default partitioner. `mix` is the 64-bit hash under the first two:
eight bytes a step, each step a bijection of the state, with murmur3's finaliser.
"""

from __future__ import annotations

from hashlib import blake2b

import robustmq.core.memory as memory

MASK = 0xFFFFFFFFFFFFFFFF
_LENGTH = 0x9E3779B97F4A7C15
_STEP = 0xBF58476D1CE4E5B9
_TAIL = 0x94D049BB133111EB
_FINAL_1 = 0xFF51AFD7ED558CCD
_FINAL_2 = 0xC4CEB9FE1A85EC53


def mix(data: bytes, seed: int) -> int:
    """A 64-bit hash of bytes under a 64-bit seed."""
    return mix_area(data, 0, len(data), seed)


def mix_area(source: bytes | bytearray, at: int, end: int, seed: int) -> int:
    """The same of a part of a buffer."""
    length = end - at
    state = (seed ^ (length * _LENGTH)) & MASK
    while at + 8 <= end:
        state = ((state ^ memory.get64(source, at)) * _STEP) & MASK
        state ^= state >> 29
        at += 8
    word = 0
    shift = 0
    while at < end:
        byte = source[at]
        word |= byte << shift
        shift += 8
        at += 1
    state = ((state ^ word) * _TAIL) & MASK
    state ^= state >> 33
    state = (state * _FINAL_1) & MASK
    state ^= state >> 33
    state = (state * _FINAL_2) & MASK
    return state ^ state >> 33


class Secret:
    """What keys the hash of topics; one for all of a process, as the hash goes between workers.

    The topic that was hashed last is kept with its key: one topic is asked for several times in a
    row, by a name that is one object. Both are one tuple, so that threads never mix two topics.
    """

    def __init__(self) -> None:
        self.set(bytes(16))

    def set(self, secret: bytes) -> None:
        """Begin with a key."""
        self.value = secret
        self.state = memory.keyed(secret)
        empty = int.from_bytes(blake2b(digest_size=8, key=secret).digest(), "little")
        self.empty_key = empty if empty else 1
        self.last = (b"", self.empty_key)


_secret = Secret()


def set_topic_secret(secret: bytes) -> None:
    """Set it, 16 to 64 bytes, before the first topic is hashed; it is kept in cluster.json."""
    assert 16 <= len(secret) <= 64, "a key of BLAKE2b"
    _secret.set(secret)


def topic_secret() -> bytes:
    """It, for whoever makes a copy of what has such keys."""
    return _secret.value


def topic_key(topic: bytes) -> int:
    """Stands for a topic's name in tables and entries: BLAKE2b under the secret of the data
    directory, 64 bits, never 0. Who does not know the secret cannot make two names with one key.
    """
    last = _secret.last
    if topic is last[0]:
        return last[1]
    key = memory.keyed_hash(_secret.state, topic) if topic else _secret.empty_key
    if key == 0:
        key = 1
    _secret.last = (topic, key)
    return key


def topic_hash(topic: bytes, partition: int) -> int:
    """The hash of a log; partition 0 hashes the topic alone."""
    return mix(topic, partition)


def key_hash(kind: bytes, name: bytes) -> int:
    """The hash of a durable machine: kind is b"session", b"group", b"transaction"..."""
    return mix(name, mix(kind, 1))


def crc32c(buffer: bytes | bytearray, begin: int, end: int) -> int:
    """CRC-32C (Castagnoli) of a part of a buffer."""
    assert 0 <= begin <= end <= len(buffer), "a checksum is asked of bytes that are there"
    return memory.checksum(buffer, begin, end)


def murmur2(key: bytes) -> int:
    """Kafka's murmur2 (Utils.murmur2), made positive as its default partitioner does."""
    source = key
    length = len(key)
    state = (0x9747B28C ^ length) & 0xFFFFFFFF
    at = 0
    while at + 4 <= length:
        word = memory.get32(source, at)
        word = (word * 0x5BD1E995) & 0xFFFFFFFF
        word ^= word >> 24
        word = (word * 0x5BD1E995) & 0xFFFFFFFF
        state = ((state * 0x5BD1E995) & 0xFFFFFFFF) ^ word
        at += 4
    rest = length - at
    if rest == 3:
        state ^= source[at + 2] << 16
    if rest >= 2:
        state ^= source[at + 1] << 8
    if rest >= 1:
        state = ((state ^ source[at]) * 0x5BD1E995) & 0xFFFFFFFF
    state ^= state >> 13
    state = (state * 0x5BD1E995) & 0xFFFFFFFF
    return (state ^ state >> 15) & 0x7FFFFFFF
