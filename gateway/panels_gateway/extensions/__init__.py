"""Extensions: what handlers reach by ``await $ext.<name>.<method>(...)``, and the process that they run in.

    gateway process                              extension process
    client ── calls (pure)                       server ── runner ── registry ── Extension objects
       │                                            │                              └ http ── egress
       └ child ═══════ socketpair: framing, messages ═╛

The gateway's side imports neither httpx nor any extension; ``client.ExtensionClient`` is the whole of it.
Authors of extensions need ``extension`` and ``testing``.
"""
