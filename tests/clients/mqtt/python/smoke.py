"""Python's MQTT clients against a broker: `smoke.py <paho|aiomqtt|gmqtt> <url> <3|4|5> <topic
prefix> [CA file]`. Says "ok"."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

import aiomqtt
import gmqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WAIT_S = 10


class Message(NamedTuple):
    """What came, and how."""

    text: str
    qos: int
    retain: bool


@dataclass(frozen=True)
class Options:
    """How to connect: `stays` is a session that outlives its connection."""

    place: SplitResult
    version: int
    ca: str | None
    name: str
    stays: bool = False
    will: str = ""

    @property
    def websocket(self) -> bool:
        return self.place.scheme in ("ws", "wss")

    @property
    def context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.ca) if self.ca else None


class Client(Protocol):
    """What the job asks of each library."""

    session_present: bool | None

    async def connect(self) -> None: ...

    async def subscribe(self, filter_: str, qos: int) -> None: ...

    async def publish(self, topic: str, text: str, qos: int, retain: bool = False) -> None: ...

    async def next(self) -> Message: ...

    async def close(self) -> None: ...

    async def cut(self) -> None: ...


def stays_after(options: Options) -> Any:
    """The properties of a CONNECT of 5.0 whose session outlives its connection."""
    make: Any = Properties
    properties = make(PacketTypes.CONNECT)
    if options.stays:
        properties.SessionExpiryInterval = 60
    return properties


def shut(client: paho.Client) -> None:
    """Cut the connection under a client of paho."""
    wrapped: Any = client.socket()
    raw: socket.socket = getattr(wrapped, "_socket", wrapped)
    raw.shutdown(socket.SHUT_RDWR)


class PahoClient:
    """paho-mqtt, with its own thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.session_present: bool | None = None
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            options.name,
            None if options.version == 5 else not options.stays,
            protocol=MQTTProtocolVersion(options.version),
            transport="websockets" if options.websocket else "tcp",
            reconnect_on_failure=False,
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._answered.set()
        self._client.on_message = self._on_message
        if options.will:
            self._client.will_set(options.will, b"gone", 1)
        if options.websocket:
            self._client.ws_set_options(options.place.path)
        if options.context:
            self._client.tls_set_context(options.context)

    def _on_connect(
        self, _client: object, _data: object, flags: Any, _code: object, _properties: object
    ) -> None:
        self.session_present = flags.session_present
        self._connected.set()

    def _on_message(self, _client: object, _data: object, got: paho.MQTTMessage) -> None:
        message = Message(got.payload.decode(), got.qos, got.retain)
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    async def connect(self) -> None:
        options = self._options
        how: dict[str, Any] = {}
        if options.version == 5:
            how = {"clean_start": not options.stays, "properties": stays_after(options)}
        assert options.place.hostname is not None
        self._client.connect(options.place.hostname, options.place.port or 0, **how)
        self._client.loop_start()
        assert await asyncio.to_thread(self._connected.wait, WAIT_S), "no CONNACK"

    async def subscribe(self, filter_: str, qos: int) -> None:
        self._answered.clear()
        self._client.subscribe(filter_, qos)
        assert await asyncio.to_thread(self._answered.wait, WAIT_S), "no SUBACK"

    async def publish(self, topic: str, text: str, qos: int, retain: bool = False) -> None:
        info = self._client.publish(topic, text, qos, retain)
        await asyncio.to_thread(info.wait_for_publish, WAIT_S)
        assert info.is_published()

    async def next(self) -> Message:
        return await asyncio.wait_for(self._messages.get(), WAIT_S)

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def cut(self) -> None:
        shut(self._client)


class AiomqttClient:
    """aiomqtt."""

    def __init__(self, options: Options) -> None:
        self.session_present: bool | None = None
        more: dict[str, Any] = {"clean_session": not options.stays}
        if options.version == 5:
            more = {"clean_start": not options.stays, "properties": stays_after(options)}
        if options.websocket:
            more.update(transport="websockets", websocket_path=options.place.path)
        self._client = aiomqtt.Client(
            options.place.hostname or "",
            options.place.port or 0,
            identifier=options.name,
            protocol=aiomqtt.ProtocolVersion(options.version),
            will=aiomqtt.Will(options.will, b"gone", 1) if options.will else None,
            tls_context=options.context,
            **more,
        )

    async def connect(self) -> None:
        await self._client.__aenter__()

    async def subscribe(self, filter_: str, qos: int) -> None:
        await self._client.subscribe(filter_, qos)

    async def publish(self, topic: str, text: str, qos: int, retain: bool = False) -> None:
        await self._client.publish(topic, text, qos, retain)

    async def next(self) -> Message:
        got = await asyncio.wait_for(anext(aiter(self._client.messages)), WAIT_S)
        assert isinstance(got.payload, bytes)
        return Message(got.payload.decode(), got.qos, got.retain)

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)

    async def cut(self) -> None:
        shut(self._client._client)


class GmqttClient:
    """gmqtt."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.session_present: bool | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._granted = asyncio.Event()
        more: dict[str, Any] = {}
        if options.version == 5 and options.stays:
            more["session_expiry_interval"] = 60
        if options.will:
            more["will_message"] = gmqtt.Message(options.will, b"gone", 1)
        self._client = gmqtt.Client(options.name, clean_session=not options.stays, **more)
        self._client.set_config({"reconnect_retries": 0})
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._granted.set()

    async def _on_message(
        self, _client: object, _topic: str, payload: bytes, qos: int, properties: dict[str, Any]
    ) -> int:
        self._messages.put_nowait(Message(payload.decode(), qos, bool(properties["retain"])))
        return 0

    async def connect(self) -> None:
        place = self._options.place
        version = self._options.version
        ssl_ = self._options.context or False
        await self._client.connect(place.hostname, place.port, ssl=ssl_, version=version)

    async def subscribe(self, filter_: str, qos: int) -> None:
        self._granted.clear()
        self._client.subscribe(filter_, qos)
        await asyncio.wait_for(self._granted.wait(), WAIT_S)

    async def publish(self, topic: str, text: str, qos: int, retain: bool = False) -> None:
        self._client.publish(topic, text, qos, retain)
        async with asyncio.timeout(WAIT_S):
            await self._client._wait_qos_queue_drained()

    async def next(self) -> Message:
        return await asyncio.wait_for(self._messages.get(), WAIT_S)

    async def close(self) -> None:
        await self._client.disconnect()

    async def cut(self) -> None:
        self._client.stop_reconnect()
        self._client._connection._transport.abort()


LIBRARIES: dict[str, type[PahoClient | AiomqttClient | GmqttClient]] = {
    "paho": PahoClient,
    "aiomqtt": AiomqttClient,
    "gmqtt": GmqttClient,
}


async def job(library: str, url: str, version: int, prefix: str, ca: str | None) -> None:
    """What every client can do."""
    options = partial(Options, urlsplit(url), version, ca)

    async def connect(name: str, stays: bool = False, will: str = "") -> Client:
        whole = f"{prefix}-{name}".replace("/", "-")
        client: Client = LIBRARIES[library](options(whole, stays, will))
        await client.connect()
        return client

    subscriber = await connect("subscriber", stays=True)
    assert not subscriber.session_present
    publisher = await connect("publisher", will=f"{prefix}/will")
    await subscriber.subscribe(f"{prefix}/data", 2)
    await subscriber.subscribe(f"{prefix}/will", 1)
    for qos in range(3):
        await publisher.publish(f"{prefix}/data", str(qos), qos)
        assert await subscriber.next() == Message(str(qos), qos, False)
    await publisher.publish(f"{prefix}/kept", "kept", 1, True)
    late = await connect("late")
    await late.subscribe(f"{prefix}/kept", 1)
    assert await late.next() == Message("kept", 1, True)
    await late.close()

    await subscriber.close()
    await publisher.publish(f"{prefix}/data", "while away", 2)
    subscriber = await connect("subscriber", stays=True)
    assert version == 3 or subscriber.session_present in (True, None)
    assert (await subscriber.next()).text == "while away"
    if version == 5:
        await share_jobs(publisher, [await connect("one"), await connect("two")], prefix)
    await publisher.cut()
    assert (await subscriber.next()).text == "gone"
    await subscriber.close()


async def share_jobs(publisher: Client, members: list[Client], prefix: str) -> None:
    """Each message of a shared subscription goes to one member."""
    done: list[str] = []

    async def work(member: Client) -> None:
        while True:
            done.append((await member.next()).text)

    for member in members:
        await member.subscribe(f"$share/group/{prefix}/jobs", 1)
    tasks = [asyncio.ensure_future(work(member)) for member in members]
    for number in range(20):
        await publisher.publish(f"{prefix}/jobs", str(number), 1)
    async with asyncio.timeout(WAIT_S):
        while len(done) < 20:
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    assert sorted(map(int, done)) == list(range(20))
    for member in members:
        await member.close()


def main(library: str, url: str, version: str, prefix: str, ca: str | None = None) -> None:
    """Do the job, and say so."""
    asyncio.run(job(library, url, int(version), prefix, ca))
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
