"""The Kafka protocol without I/O: schema and codec, and the handlers of its requests."""
