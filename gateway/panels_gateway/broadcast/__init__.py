"""Who hears what: rooms, topics, outboxes and the bytes of every message."""
