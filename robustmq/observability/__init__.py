"""What operators see: counters, metrics, logs, $SYS topics."""
