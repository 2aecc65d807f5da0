"""Which worker runs which trigger, and when. Pure: no clock, no I/O."""
