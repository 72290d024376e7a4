"""The one contract of every durable machine (design, section 10).

A machine is pure: it holds the state of one group (session, transaction, ...), takes events with
the time, and says what is to be done. Only the shard runtime executes it:

    effects = machine.handle(event, now_ms, token)
    append(records.encode_record(r) for r in effects.records)      # one log entry, in this order
    arm(effects.timers)                                            # at once; no commit needed
    when everything this machine has appended so far is committed:
        release(effects.replies), execute(effects.commands)

- `handle` has already applied its own records to the machine when it returns. `replay` is for
  recovery only: the snapshot, then the records in log order, give the same durable state. Replay is
  idempotent.
- `token` names who asked. Its reply comes in these effects, or in those of a later event (a parked
  join); each token is replied to once at most. Events that say "has no reply" ignore it.
- A command is what must be done elsewhere (another machine, a log) once the records are committed;
  its kind's executor does it and tells the machine the outcome by an event. A crash forgets it, so
  `Resumed` gives out anew what the state says is still to be done; commands are idempotent.
- A timer is (deadline_ms, key) in the machine's own keys. Setting a key replaces its older
  deadline; deadline None cancels. When it comes the runtime calls handle(TimerFired(key), now_ms).
  Timers are not durable: after recovery handle(Resumed(), now_ms) arms them anew.
- If records cannot be appended, the machine is thrown away, rebuilt from the log, and its tokens
  get an error.
- A machine with `disposable` True holds nothing durable: the runtime may drop it, with its timers.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

Event_contra = TypeVar("Event_contra", contravariant=True)
Record = TypeVar("Record")
Reply = TypeVar("Reply")

Timer = tuple[int | None, str]
"""(deadline in monotonic ms or None to cancel, key)"""


class Effects(msgspec.Struct, Generic[Record, Reply]):
    """What an event leads to."""

    records: list[Record] = []
    replies: list[tuple[int, Reply]] = []
    timers: list[Timer] = []
    commands: list[Any] = []


class Machine(Protocol[Event_contra, Record, Reply]):
    """What the runtime sees of a durable machine."""

    @property
    def disposable(self) -> bool:
        """True when nothing would be lost by forgetting the machine."""

    def handle(self, event: Event_contra, now_ms: int, token: int = 0) -> Effects[Record, Reply]:
        """Take an event; `token` names who asked."""

    def replay(self, record: Record) -> None:
        """Apply a record of the log or of a snapshot."""

    def snapshot(self) -> list[Record]:
        """Records that rebuild the durable state on an empty machine."""
