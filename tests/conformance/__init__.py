"""Normative statements of MQTT on a real broker."""
