"""Handlers in JavaScript and TypeScript, in QuickJS-ng compiled to WebAssembly.

``prepare`` checks a script in the disposable compile child and makes its artifact; ``JavaScriptProgram`` runs
one, each job in a fresh instance of the guest that begins from a snapshot taken after the handler was
compiled."""

from __future__ import annotations

from panels_worker.javascript.prepare import prepare

__all__ = ["prepare"]
