"""Sockets: listeners, the passing on of connections, the bus between workers, Kafka connections."""
