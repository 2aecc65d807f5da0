"""The command `panels`: what developers and operators do with panels, by HTTP and WebSocket alone.

It imports ``panels_shared`` and never the gateway or the worker. docs/cli.md has every command,
docs/panel-folders.md the format of a panel's folder.
"""
