"""Which worker runs which job, when. Pure."""
