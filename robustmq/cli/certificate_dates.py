"""When a certificate ends (RFC 5280 section 4.1.2.5), read from its file.

The standard library tells the dates of a peer's certificate alone, so the way to them is walked
here: a certificate is nested tag, length, value (DER).
"""

from __future__ import annotations

import calendar
import ssl
import time
from pathlib import Path

UTC_TIME, GENERALIZED_TIME = 23, 24
VERSION = 0xA0
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def ends_at_s(file: str) -> int:
    """The second (wall clock) after which the first certificate of a PEM file is not valid; raises
    OSError and ValueError."""
    text = Path(file).read_text(encoding="ascii")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise ValueError("there is no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(END)])
    certificate = _value(der, 0)[1]
    _, body, _ = _value(certificate, 0)
    at = 0
    tag, _, after = _value(body, at)
    if tag == VERSION:
        at = after
    for _ in ("serial number", "signature algorithm", "issuer"):
        at = _value(body, at)[2]
    validity = _value(body, at)[1]
    tag, written, _ = _value(validity, _value(validity, 0)[2])
    form = {UTC_TIME: "%y%m%d%H%M%SZ", GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}.get(tag)
    if form is None:
        raise ValueError("its dates are not well formed")
    return calendar.timegm(time.strptime(written.decode("ascii"), form))


def _value(data: bytes, at: int) -> tuple[int, bytes, int]:
    """The tag and the value at a place, and the place behind it."""
    if len(data) < at + 2:
        raise ValueError("it is cut short")
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        width = size & 0x7F
        size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
    if len(data) < begin + size:
        raise ValueError("it is cut short")
    return data[at], data[begin : begin + size], begin + size
