"""`robustmq pub` and `robustmq sub`: one message, or what comes, in the manner of mosquitto's
clients.

Blocking sockets and the broker's own codec; -h is the host here, as users of such tools expect.
Exit codes: 0 done, 1 the broker refused or went away, 2 wrong use, 27 time-out of `sub -W`
(mosquitto's).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

from robustmq.bench.dialling import NoWebSocketError, connect
from robustmq.errors import BrokerError, Fault
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    MQTT_5_0,
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
)

KEEP_ALIVE_SECONDS = 60
TIMED_OUT = 27
Action = Callable[[argparse.Namespace], int]
VERSIONS = {"mqttv31": 3, "31": 3, "mqttv311": 4, "311": 4, "mqttv5": 5, "5": 5}


class ClientError(Exception):
    """What the user is told before the command ends with 1."""


class Client:
    """One blocking connection."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.version = VERSIONS[options.version]
        self.data = bytearray()
        where = options.unix or f"{options.host} port {options.port}"
        try:
            self.socket = connect(options)
        except (OSError, NoWebSocketError) as error:
            reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error
            raise ClientError(
                f"cannot connect to {where}: {reason}; is a broker running there?"
            ) from None
        name = options.id or f"robustmq-{os.getpid()}-{time.monotonic_ns() & 0xFFFFFF:x}"
        password = options.password.encode() if options.password else None
        self.send(
            Connect(
                self.version, name.encode(), True, KEEP_ALIVE_SECONDS,
                user_name=options.user or None, password=password,
            )
        )  # fmt: skip
        packet = next(self.packets(10))
        if not isinstance(packet, ConnAck) or packet.reason_code:
            code = packet.reason_code if isinstance(packet, ConnAck) else -1
            raise ClientError(f"connection refused: {_reason(code, self.version)}")

    def send(self, packet: Packet) -> None:
        """Send one packet whole."""
        self.socket.sendall(codec.encode(packet, self.version))

    def packets(self, seconds: float | None) -> Iterator[Packet]:
        """Packets as they come; ends when the time is over. Pings when it is quiet."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            packet = self._take()
            if packet is not None:
                yield packet
                continue
            wait = KEEP_ALIVE_SECONDS / 2
            if end is not None:
                wait = min(wait, end - time.monotonic())
                if wait <= 0:
                    return
            self.socket.settimeout(wait)
            try:
                chunk = self.socket.recv(65_536)
            except TimeoutError:
                if end is None or time.monotonic() < end:
                    self.send(PingReq())
                continue
            if not chunk:
                raise ClientError("the broker closed the connection")
            self.data += chunk

    def _take(self) -> Packet | None:
        length = 0
        for place in range(1, min(len(self.data), 5)):
            length |= (self.data[place] & 127) << 7 * (place - 1)
            if self.data[place] < 128:
                begin = place + 1
                if len(self.data) < begin + length:
                    return None
                packet = codec.decode(
                    self.data[0], bytes(self.data), begin, begin + length, self.version,
                    from_client=False,
                )  # fmt: skip
                del self.data[: begin + length]
                return packet
        return None

    def close(self) -> None:
        """Say good-bye."""
        self.send(Disconnect())
        self.socket.close()


def _reason(code: int, version: int) -> str:
    """A reason code in words: the first fault that has it."""
    for fault in Fault:
        if code and code == (fault.mqtt5 if version == MQTT_5_0 else fault.mqtt3):
            return f"{fault.name.lower().replace('_', ' ')} (0x{code:02x})"
    return f"reason code 0x{code & 0xFF:02x}"


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"robustmq {name}", description=description, add_help=False
    )
    parser.add_argument("--help", action="help", help="show this and end")
    parser.add_argument("-h", "--host", default="127.0.0.1")
    parser.add_argument("-p", "--port", type=int, help="1883, or by the transport")
    parser.add_argument("--unix", metavar="PATH", help="connect to a UNIX socket")
    parser.add_argument("--ws", metavar="PATH", help="connect to a WebSocket at this path: /mqtt")
    parser.add_argument("--tls", action="store_true", help="use TLS, trust whom the system trusts")
    parser.add_argument("--cafile", metavar="FILE", help="use TLS, trust these authorities")
    parser.add_argument("--cert", metavar="FILE", help="our certificate")
    parser.add_argument("--key", metavar="FILE", help="its key, if it is not in the same file")
    parser.add_argument("--insecure", action="store_true", help="use TLS, trust everybody")
    parser.add_argument("-i", "--id", default="", help="client identifier")
    parser.add_argument("-u", "--user", default="")
    parser.add_argument("-P", "--password", default="")
    parser.add_argument("-q", "--qos", type=int, choices=(0, 1, 2), default=0)
    parser.add_argument("-V", "--version", choices=sorted(VERSIONS), default="mqttv5")
    return parser


def _guarded(command: str, action: Action, options: argparse.Namespace) -> int:
    try:
        return action(options)
    except (ClientError, BrokerError, OSError) as error:
        print(f"robustmq {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def run_pub(arguments: list[str]) -> int:
    """Publish one message, or with -l one for each line of standard input."""
    parser = _parser("pub", "Publish over MQTT.")
    parser.add_argument("-t", "--topic", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", "--message", help="the payload")
    what.add_argument("-n", "--null", action="store_true", help="an empty payload")
    what.add_argument("-l", "--lines", action="store_true", help="a message for each line of input")
    what.add_argument("-s", "--stdin", action="store_true", help="standard input is the payload")
    parser.add_argument("-r", "--retain", action="store_true")
    return _guarded("pub", _publish, parser.parse_args(arguments))


def _payloads(options: argparse.Namespace) -> Iterator[bytes]:
    if options.lines:
        for line in sys.stdin.buffer:
            yield line.rstrip(b"\r\n")
    elif options.stdin:
        yield sys.stdin.buffer.read()
    else:
        yield b"" if options.null else options.message.encode()


def _publish(options: argparse.Namespace) -> int:
    client = Client(options)
    for number, payload in enumerate(_payloads(options)):
        packet_id = number % 65_535 + 1 if options.qos else 0
        client.send(
            Publish(
                options.topic.encode(), payload, options.qos, options.retain, packet_id=packet_id
            )
        )
        if options.qos:
            _await_ack(client, packet_id, options.qos)
    client.close()
    return 0


def _await_ack(client: Client, packet_id: int, qos: int) -> None:
    """Wait until the message is the broker's (sections 4.3.2 and 4.3.3)."""
    for packet in client.packets(30):
        if isinstance(packet, Disconnect):
            raise ClientError(f"the broker disconnected: {_reason(packet.reason_code, 5)}")
        if not isinstance(packet, Ack) or packet.packet_id != packet_id:
            continue
        if packet.reason_code >= 0x80:
            raise ClientError(f"the broker refused the message with 0x{packet.reason_code:02x}")
        if packet.kind != PacketType.PUBREC:
            return
        client.send(Ack(PacketType.PUBREL, packet_id))
    raise ClientError(f"no acknowledgement of the QoS {qos} message within 30 s")


def run_sub(arguments: list[str]) -> int:
    """Subscribe, and print each payload on a line."""
    parser = _parser("sub", "Subscribe over MQTT and print what comes.")
    parser.add_argument("-t", "--topic", action="append", required=True, help="may be repeated")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the topic as well")
    parser.add_argument("-C", "--count", type=int, default=0, help="end after so many messages")
    parser.add_argument("-W", "--wait", type=float, help="end after so many seconds")
    parser.add_argument("-R", "--no-retained", action="store_true", help="skip retained messages")
    return _guarded("sub", _subscribe, parser.parse_args(arguments))


def _subscribe(options: argparse.Namespace) -> int:
    client = Client(options)
    wanted = SubscriptionOptions(options.qos)
    filters = tuple((topic.encode(), wanted) for topic in options.topic)
    client.send(Subscribe(1, filters))
    seen = 0
    for packet in client.packets(options.wait):
        if isinstance(packet, SubAck):
            if max(packet.reason_codes) >= 0x80:
                code = max(packet.reason_codes)
                raise ClientError(f"subscription refused: {_reason(code, 5)}")
        elif isinstance(packet, Disconnect):
            raise ClientError(f"the broker disconnected with 0x{packet.reason_code:02x}")
        elif isinstance(packet, Ack):
            client.send(Ack(PacketType.PUBCOMP, packet.packet_id))
        elif isinstance(packet, Publish):
            _acknowledge(client, packet)
            if options.no_retained and packet.retain:
                continue
            _print(packet, options.verbose)
            seen += 1
            if seen == options.count:
                break
    client.close()
    return 0 if options.wait is None or (options.count and seen == options.count) else TIMED_OUT


def _acknowledge(client: Client, packet: Publish) -> None:
    if packet.qos:
        kind = PacketType.PUBACK if packet.qos == 1 else PacketType.PUBREC
        client.send(Ack(kind, packet.packet_id))


def _print(packet: Publish, verbose: bool) -> None:
    line = packet.topic + b" " + packet.payload if verbose else packet.payload
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
