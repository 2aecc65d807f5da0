"""Tests of the extension process and its client."""
