"""The nouns: what a panel is. No I/O, no clock."""
