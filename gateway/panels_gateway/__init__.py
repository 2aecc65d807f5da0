"""The panels gateway: the only writer of panel state, and the only process that clients speak to."""
