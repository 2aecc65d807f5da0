"""The record: the seam, the log, the process that folds it, and the store."""
