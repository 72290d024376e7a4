"""Where topics live, who appends to them, who hears of it, and what survives a crash.

The modules in the order a PUBLISH meets them: `placement` (where a topic lives), `router` (the
publisher's side: gathers a turn's messages into one block a shard and waits for the confirmations),
`owner` (the owner's side: offsets, order, retained values, and which workers hear of it),
`delivery` (the subscriber's side: which clients),
`inbox` and `sessions` (what waits for clients that are away), `machines` and `runtime` (the kinds
of durable machines, and what runs them), `directory` and `gateway` (the same as Kafka sees it) and
`broker` (one worker's parts, put together).
"""
