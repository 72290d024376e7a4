"""RobustMQ: one broker that speaks MQTT and Kafka over one log."""

__version__ = "0.1.0"
