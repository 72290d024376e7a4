"""Which reason codes a packet may carry (the tables of MQTT 5.0 sections 3.2.2.2, 3.4.2.1 to
3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1 and 3.15.2.1), and which one tells a fault in a packet that has no
code of its own for it.
"""

from __future__ import annotations

from typing import Final

from robustmq.errors import Fault
from robustmq.mqtt.packets import PacketType

_ACK: Final = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_RELEASE: Final = frozenset({0x00, 0x92})

FROM_CLIENT: Final[dict[int, frozenset[int]]] = {
    PacketType.PUBACK: _ACK,
    PacketType.PUBREC: _ACK,
    PacketType.PUBREL: _RELEASE,
    PacketType.PUBCOMP: _RELEASE,
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x04, 0x90} | set(range(0x80, 0x84)) | set(range(0x93, 0x9A))
    ),
    PacketType.AUTH: frozenset({0x00, 0x18, 0x19}),
}
FROM_SERVER: Final[dict[int, frozenset[int]]] = {
    PacketType.CONNACK: frozenset(
        {0x00, 0x8C, 0x90, 0x95, 0x97, 0x9F} | set(range(0x80, 0x8B)) | set(range(0x99, 0x9E))
    ),
    PacketType.PUBACK: _ACK,
    PacketType.PUBREC: _ACK,
    PacketType.PUBREL: _RELEASE,
    PacketType.PUBCOMP: _RELEASE,
    PacketType.SUBACK: frozenset(
        {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}
    ),
    PacketType.UNSUBACK: frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x87, 0x89, 0x8B}
        | set(range(0x80, 0x84))
        | set(range(0x8D, 0x91))
        | set(range(0x93, 0xA3))
    ),
}

_INSTEAD: Final = {
    # Server unavailable, banned, shutting down, taken over, packet too large; any other:
    # unspecified.
    0x88: (0x89, 0x83),
    0x8A: (0x98,),
    0x8B: (0x88, 0x83),
    0x8E: (0x88,),
    0x95: (0x97,),
}


def reason_for(packet: int, fault: Fault) -> int:
    """The reason code that says `fault` in a packet of the server."""
    allowed = FROM_SERVER[packet]
    candidates = (fault.mqtt5, *_INSTEAD.get(fault.mqtt5, ()))
    return next((code for code in candidates if code in allowed), Fault.UNSPECIFIED.mqtt5)
