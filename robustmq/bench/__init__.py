"""Load generator and small MQTT clients: `robustmq bench`, `robustmq pub`, `robustmq sub`."""
