"""What of a shard's log is still needed as it stands, and by whom: the one place that says it.

Below the floor nobody reads the log in its order any more. What is needed from there is needed one
by one: batches of light topics that have them, and inbox entries that a session refers to
(`shard.log_cleaning`). Everything else below it is dead:

| entry | why nobody needs it below the floor |
|---|---|
| MACHINE, CURSOR, TOPIC_CREATED | the checkpoint has what they say |
| TOPIC_DELETED, TOPIC_TRIMMED | the same, once nothing that they delete is left in the log |
| DELAYED_BLOCK, DELAYED_OVER | LevelDB has each message that waits, and its number is but a name |
| RETAINED_BLOCK | LevelDB has the values |
| DECLARED_MARKER, RELEASE | told to, and committed by, every worker that must hear of them |
| DEALT | the same; the block it names is kept for as long |
| INBOX without a reference | its sessions are done with it; the checkpoint has what was left |

The floor is the least of what the parts say here. Each says a position that is only ever lower
than what is true: keeping too much costs room, keeping too little a message.
"""

from __future__ import annotations

from robustmq.shard.dealing import Dealing
from robustmq.shard.telling import Telling
from robustmq.storage.shard_store import ShardStore


def floor_of(shard: int, store: ShardStore, telling: Telling, dealing: Dealing) -> int:
    """The position from which on a shard's log is needed as it stands: recovery begins at the last
    checkpoint, a worker has not confirmed what its sessions get, share groups may lack what they
    should get since a start."""
    floor = min(store.durable_checkpoint, telling.needed_from(shard))
    given_out = dealing.needed_from(shard)
    return floor if given_out is None else min(floor, given_out)
