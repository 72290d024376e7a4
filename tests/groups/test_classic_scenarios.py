"""Groups by scenario: tests/scenario/kafka_group_*.txt hold events and the effects expected.

A line `> ...` is an event, the lines under it its effects, `# ...` a comment, `@ N` sets the time.
Run with ROBUSTMQ_REWRITE=1 to write the effects anew, and read the difference in review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustmq.groups.classic import GroupSettings
from robustmq.groups.group import Group
from robustmq.groups.records import (
    GenerationRecord,
    OffsetRecord,
    decode_record,
    encode_record,
)
from robustmq.kafka import group_events as events
from robustmq.kafka.consumer_events import ExpireOffsets
from tests.groups.topics import Topics

SCENARIOS = Path(__file__).parent.parent / "scenario"


class Script:
    """One group, driven by lines."""

    def __init__(self) -> None:
        self.settings = GroupSettings(
            min_session_timeout_ms=1_000, max_size=4, initial_rebalance_delay_ms=0
        )
        self.group = Group("g", Topics(), self.settings)
        self.now_ms = 0
        self.token = 0
        self.log: list[bytes] = []

    def run(self, line: str) -> list[str]:
        word, *rest = line.split()
        options = dict(part.split("=", 1) for part in rest if "=" in part)
        plain = [part for part in rest if "=" not in part]
        if word == "delay":
            self.settings = GroupSettings(1_000, initial_rebalance_delay_ms=int(plain[0]))
            self.group = Group("g", Topics(), self.settings)
            return []
        if word == "restart":
            self.group = Group("g", Topics(), self.settings)
            for record in self.log:
                self.group.replay(decode_record(record))
            event: events.GroupEvent = events.Resumed()
        else:
            event = getattr(self, f"_{word}")(plain, options)
        self.token += 1
        effects = self.group.handle(
            events.decode_event(events.encode_event(event)), self.now_ms, self.token
        )
        self.log += [encode_record(record) for record in effects.records]
        lines = [f"  {describe(record)}" for record in effects.records]
        lines += [f"  reply {token}: {say(reply)}" for token, reply in effects.replies]
        lines += [f"  timer {key} {when}" for when, key in effects.timers]
        return [*lines, f"  {self.group.state} {generation(self.group)}"]

    def _join(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.JoinGroup(
            member_id=plain[0] if plain else "",
            group_instance_id=options.get("static"),
            new_member_id=options.get("new", "?"),
            member_id_required="required" in plain,
            client_id="c",
            client_host="/h",
            session_timeout_ms=int(options.get("session", "10000")),
            rebalance_timeout_ms=int(options.get("rebalance", "5000")),
            protocol_type=options.get("type", "consumer"),
            protocols=[
                (name, options.get("meta", "m").encode())
                for name in options.get("protocols", "range").split(",")
                if name
            ],
            skip_assignment_supported="skip" in plain,
        )

    def _new(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return self._join(["", *plain], options)

    def _sync(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        given = [pair.split(":") for pair in options.get("give", "").split(",") if pair]
        return events.SyncGroup(
            plain[0],
            options.get("static"),
            int(plain[1]),
            options.get("type"),
            options.get("protocol"),
            [(member, value.encode()) for member, value in given],
        )

    def _heartbeat(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.Heartbeat(plain[0], options.get("static"), int(plain[1]))

    def _leave(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        if not plain:
            return events.LeaveGroup([events.LeavingMember("", options.get("static"))])
        return events.LeaveGroup([events.LeavingMember(plain[0], options.get("static"))])

    def _timer(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.TimerFired(plain[0])

    def _commit(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        member = "" if plain[0] == "-" else plain[0]
        wanted = events.OffsetToCommit(b"t", 0, int(plain[2]), -1, options.get("metadata", ""))
        return events.CommitOffsets(member, options.get("static"), int(plain[1]), [wanted], 7)

    def _fetch(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.FetchOffsets(None if not plain else [(plain[0].encode(), int(plain[1]))])

    def _describe(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.DescribeGroup()

    def _delete(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.DeleteGroup()

    def _expire(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return ExpireOffsets(int(plain[0]))

    def _forget(self, plain: list[str], options: dict[str, str]) -> events.GroupEvent:
        return events.ForgetTopic(plain[0].encode())


def generation(group: Group) -> int:
    return 0 if group.membership is None else group.membership.generation_id


def describe(record: object) -> str:
    if isinstance(record, GenerationRecord):
        members = ",".join(f"{m.member_id}={m.assignment.decode()}" for m in record.members)
        settled = "settled" if record.settled else "open"
        return (
            f"record generation {record.generation_id} {settled} leader={record.leader} {members}"
        )
    if isinstance(record, OffsetRecord):
        return f"record offset {record.topic.decode()}/{record.partition}={record.offset}"
    return f"record {type(record).__name__}"


def say(reply: events.GroupReply) -> str:
    if isinstance(reply, events.JoinReply):
        if reply.error:
            return f"join error {int(reply.error)} {reply.member_id}".rstrip()
        members = ",".join(member.member_id for member in reply.members)
        skip = " skip" if reply.skip_assignment else ""
        return (
            f"join {reply.member_id} generation={reply.generation_id} "
            f"{reply.protocol_name} leader={reply.leader} [{members}]{skip}"
        )
    if isinstance(reply, events.SyncReply):
        return f"sync error {int(reply.error)} {reply.assignment.decode()}".rstrip()
    if isinstance(reply, events.LeaveReply):
        return f"leave {[int(member.error) for member in reply.members]}"
    if isinstance(reply, events.CommitReply):
        return f"commit {[int(error) for error in reply.errors]}"
    if isinstance(reply, events.OffsetsReply):
        return f"offsets {[(o.topic.decode(), o.partition, o.offset) for o in reply.offsets]}"
    if isinstance(reply, events.DescribeReply):
        return f"{reply.state} {reply.protocol} {[m.member_id for m in reply.members]}"
    assert isinstance(reply, events.ErrorReply)
    return f"error {int(reply.error)}"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("kafka_group_*.txt")), ids=lambda p: p.stem)
def test_a_group_does_what_its_scenario_says(path: Path) -> None:
    script = Script()
    written: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("> "):
            written.append(line)
            written += script.run(line[2:])
        elif line.startswith("@ "):
            script.now_ms = int(line[2:])
            written.append(line)
        elif line.startswith("#") or not line:
            written.append(line)
    text = "\n".join(written) + "\n"
    if os.environ.get("ROBUSTMQ_REWRITE"):
        path.write_text(text)
    assert text == path.read_text()
