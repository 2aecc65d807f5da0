"""How a process locks itself in."""
