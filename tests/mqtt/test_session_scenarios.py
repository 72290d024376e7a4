"""Session behaviour as data: tests/scenario/mqtt_*.txt hold events and the effects expected.

`> event` lines are fed to one client identifier's session; the indented lines under each are what
came of it. Run with ROBUSTMQ_REWRITE=1 to write the effects anew, and read the difference in
review. Events:

    at MS                                          the time of what follows
    connect v=5 clean=0 expiry=100 receive=10 will=TOPIC delay=0
    disconnect REASON [expiry=N] / cut / crash     crash replays the records into a new session
    offer REFERENCE qos=N / send / resume          send pumps; resume sends PUBRELs, then pumps
    puback ID / pubrec ID [REASON] / pubcomp ID / publish ID / pubrel ID / tick
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustmq.errors import BrokerError
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.connect import close_session, open_session
from robustmq.mqtt.packets import Connect, Disconnect, Properties, Will
from robustmq.mqtt.session import Session
from robustmq.mqtt.session_records import Record, decode_record, encode_record

SCENARIOS = sorted((Path(__file__).parent.parent / "scenario").glob("mqtt_*.txt"))
CAPABILITIES = Capabilities(maximum_queued_messages=3)


class World:
    """One client identifier, its session and what of it is durable."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.session: Session | None = None
        self.log: list[Record | tuple[int, int]] = []
        self.effects: list[str] = []

    def run(self, line: str) -> list[str]:
        self.effects = []
        words = line.split()
        options = dict(word.split("=") for word in words if "=" in word)
        numbers = [int(word, 0) for word in words[1:] if "=" not in word]
        try:
            getattr(self, f"on_{words[0]}")(*numbers, **options)
        except BrokerError as error:
            self.effects.append(f"error {error.fault.name}")
        if self.session is not None:
            for record in self.session.drain_records():
                self.log.append(record)
                self.effects.append(f"record {record}")
        return self.effects

    def live(self) -> Session:
        assert self.session is not None, "the scenario needs a session here"
        return self.session

    def on_at(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def on_connect(
        self,
        v: str = "5",
        clean: str = "0",
        expiry: str = "0",
        receive: str = "10",
        will: str = "",
        delay: str = "0",
    ) -> None:
        testament = Will(
            will.encode(), b"gone", properties=Properties(will_delay_interval=int(delay))
        )
        connect = Connect(
            int(v),
            b"c",
            clean == "1",
            will=testament if will else None,
            properties=Properties(
                session_expiry_interval=int(expiry), receive_maximum=int(receive)
            ),
        )
        self.session, connack, _, effects = open_session(
            connect, self.session, CAPABILITIES, self.now_ms
        )
        if effects.takeover:
            self.effects.append("disconnect the old connection 0x8e")
        self.published(effects.will)
        if effects.ended is not None:
            self.log = []
            self.effects.append("the old session ended")
        self.effects.append(f"connack session_present={int(connack.session_present)}")

    def published(self, will: Will | None) -> None:
        if will is not None:
            self.effects.append(f"publish will {will.topic.decode()}")

    def ended(self, ended: bool) -> None:
        if ended:
            self.effects.append("session ended")
            self.session, self.log = None, []

    def on_disconnect(self, reason: int, expiry: str = "") -> None:
        properties = Properties(session_expiry_interval=int(expiry) if expiry else None)
        self.leave(Disconnect(reason, properties))

    def on_cut(self) -> None:
        self.leave(None)

    def leave(self, disconnect: Disconnect | None) -> None:
        will, ended = close_session(self.live(), disconnect, CAPABILITIES, self.now_ms)
        self.published(will)
        self.ended(ended)

    def on_tick(self) -> None:
        will, ended = self.live().advance(self.now_ms)
        self.published(will)
        self.ended(ended)

    def on_crash(self) -> None:
        session = Session(b"c", CAPABILITIES)
        for entry in self.log:
            if isinstance(entry, tuple):
                session.restore_offer(*entry)
            else:
                session.replay(decode_record(encode_record(entry)))
        session.recover(self.now_ms)
        self.session = session

    def on_offer(self, reference: int, qos: str) -> None:
        self.log.append((reference, int(qos)))
        for dropped in self.live().offer(reference, int(qos)):
            self.effects.append(f"dropped {dropped}")

    def on_send(self) -> None:
        for one in self.live().pump():
            dup = " dup" if one.dup else ""
            self.effects.append(f"PUBLISH {one.packet_id} qos={one.qos} of {one.reference}{dup}")

    def on_resume(self) -> None:
        self.effects += [f"PUBREL {packet_id}" for packet_id in self.live().resume()]
        self.on_send()

    def on_puback(self, packet_id: int, reason: int = 0) -> None:
        self.finished(self.live().on_puback(packet_id, reason))

    def on_pubrec(self, packet_id: int, reason: int = 0) -> None:
        reply, finished = self.live().on_pubrec(packet_id, reason)
        if reply is not None:
            self.effects.append(f"PUBREL {reply.packet_id} 0x{reply.reason_code:02x}")
        self.finished(finished)

    def finished(self, references: list[int]) -> None:
        self.effects += [f"finished {reference}" for reference in references]

    def on_pubcomp(self, packet_id: int) -> None:
        self.live().on_pubcomp(packet_id)

    def on_publish(self, packet_id: int) -> None:
        new = self.live().on_publish(packet_id)
        self.effects.append(f"{'append and ' if new else ''}PUBREC {packet_id}")

    def on_pubrel(self, packet_id: int) -> None:
        self.effects.append(
            f"PUBCOMP {packet_id} 0x{self.live().on_pubrel(packet_id).reason_code:02x}"
        )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    world = World()
    text = path.read_text()
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            found.append(line)
            found += [f"  {effect}" for effect in world.run(line[2:])]
        elif not line.startswith("  "):
            found.append(line)
    result = "\n".join(found) + "\n"
    if os.environ.get("ROBUSTMQ_REWRITE"):
        path.write_text(result)
    assert result == text


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 6
