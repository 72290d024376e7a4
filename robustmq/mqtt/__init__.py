"""MQTT 3.1, 3.1.1 and 5.0 without I/O: bytes and events in, bytes and decisions out.

`codec` turns one packet into a struct of `packets` and back; `properties` is the table of MQTT 5.0
properties. `connect` decides what a CONNECT leads to, `subscriptions` what a SUBSCRIBE grants,
`retained` what is replayed to a new subscription. `session` is the durable machine of one client
id, with `inflight` as its outbound window and `will` as its will. `capabilities` is what this
server offers. Time is passed in; nothing here asks a clock. The PUBLISH hot path is not here:
`robustmq.core` decodes and encodes runs of PUBLISH and acks by tables.
"""
