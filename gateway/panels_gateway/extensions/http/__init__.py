"""``http``, and the one way out to other hosts that all extensions share.

Runs in the extension process only.
"""
