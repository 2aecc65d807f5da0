"""The only writer of panel state: what happens between a trigger and its answer."""
