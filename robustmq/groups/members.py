"""The members of a classic group: who they are, what they vote for, and who waits for an answer.

`Roster` keeps them in the order in which they came (that order decides ties, so every replay
decides alike), with the index of static members (`group.instance.id`, KIP-345) beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from robustmq.groups.records import MemberRecord
from robustmq.kafka.group_events import JoinedMember, MemberDescription


class Member(msgspec.Struct):
    """One member. A token is a caller that waits: for the rebalance, or for its assignment."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: list[tuple[str, bytes]]
    assignment: bytes = b""
    join_token: int | None = None
    sync_token: int | None = None
    session_deadline_ms: int = 0

    def metadata(self, protocol: str | None) -> bytes:
        """What the member said of itself under a protocol."""
        for name, metadata in self.protocols:
            if name == protocol:
                return metadata
        return b""

    def record(self) -> MemberRecord:
        """The part that outlives the owner."""
        return MemberRecord(
            self.member_id,
            self.group_instance_id,
            self.client_id,
            self.client_host,
            self.session_timeout_ms,
            self.rebalance_timeout_ms,
            self.protocols,
            self.assignment,
        )

    def describe(self, protocol: str | None) -> MemberDescription:
        """As DescribeGroups shows it; protocol None: without metadata and assignment."""
        return MemberDescription(
            self.member_id,
            self.group_instance_id,
            self.client_id,
            self.client_host,
            self.metadata(protocol),
            self.assignment if protocol is not None else b"",
        )


def from_record(record: MemberRecord) -> Member:
    """The member of a record, with nobody waiting."""
    return Member(
        record.member_id,
        record.group_instance_id,
        record.client_id,
        record.client_host,
        record.session_timeout_ms,
        record.rebalance_timeout_ms,
        record.protocols,
        record.assignment,
    )


class Roster:
    """All members of a group, in the order in which they came."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._static: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __contains__(self, member_id: object) -> bool:
        return member_id in self._members

    def get(self, member_id: str) -> Member | None:
        """The member of that id."""
        return self._members.get(member_id)

    def static(self, group_instance_id: str | None) -> Member | None:
        """The static member of that instance id."""
        if group_instance_id is None:
            return None
        member_id = self._static.get(group_instance_id)
        return None if member_id is None else self._members[member_id]

    def add(self, member: Member) -> None:
        """A new member, behind all others."""
        assert member.member_id not in self._members, "a member id is given once"
        self._members[member.member_id] = member
        if member.group_instance_id is not None:
            self._static[member.group_instance_id] = member.member_id

    def remove(self, member_id: str) -> None:
        """A member goes."""
        member = self._members.pop(member_id)
        if member.group_instance_id is not None:
            self._static.pop(member.group_instance_id, None)

    def rename(self, member: Member, member_id: str) -> None:
        """A static member came back under a new id: it keeps its place and its assignment."""
        old = member.member_id
        member.member_id = member_id
        self._members = {
            (member_id if key == old else key): value for key, value in self._members.items()
        }
        assert member.group_instance_id is not None, "only static members are renamed"
        self._static[member.group_instance_id] = member_id

    def clear(self) -> None:
        """Nobody is left."""
        self._members.clear()
        self._static.clear()

    def candidates(self, leave_out: Member | None = None) -> list[str]:
        """Protocols that every member knows, in the order of the first member's preference."""
        voters = [member for member in self._members.values() if member is not leave_out]
        if not voters:
            return []
        common = set.intersection(*({name for name, _ in voter.protocols} for voter in voters))
        return [name for name, _ in voters[0].protocols if name in common]

    def vote(self) -> str:
        """The protocol most members prefer among those that all know; a tie goes to the first
        member's order.
        """
        candidates = self.candidates()
        assert candidates, "members without a common protocol were let in"
        votes = dict.fromkeys(candidates, 0)
        for member in self._members.values():
            votes[next(name for name, _ in member.protocols if name in votes)] += 1
        return max(candidates, key=lambda name: votes[name])

    def joined(self, protocol: str) -> list[JoinedMember]:
        """What the leader is told of everybody."""
        return [
            JoinedMember(member.member_id, member.group_instance_id, member.metadata(protocol))
            for member in self._members.values()
        ]

    def rebalance_timeout_ms(self) -> int:
        """How long the slowest member may take to join again."""
        return max((member.rebalance_timeout_ms for member in self._members.values()), default=0)
