"""Turns a tool's artifact into a program, in a sandbox process."""

from __future__ import annotations

import logging

import msgspec
import wasmtime

from panels_shared.messages import Tool
from panels_worker.artifacts import ArtifactStore, Kind
from panels_worker.guest.abi import WasmHost
from panels_worker.guest.engine import make_engine
from panels_worker.guest.task import Program
from panels_worker.guest.traps import GuestTrap
from panels_worker.guest.wasm import WasmProgram
from panels_worker.javascript.engines import PREVIOUS, QUICKJS, carried, engine_digest
from panels_worker.javascript.guest import JavaScriptGuest, ScriptError
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.javascript.script import decode

logger = logging.getLogger("panels.worker.sandbox")


class ArtifactLoader:
    """Loads programs from the artifact store; owns the process's one engine."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.engine = make_engine()
        self._host = WasmHost(self.engine)
        #: the builds of the guest that were needed so far
        self._guests: dict[str, JavaScriptGuest] = {}

    def load(self, tool: Tool) -> Program | None:
        """The program of ``tool``, or None when its artifact is not there or not authentic."""
        artifact = self._store.get(tool.digest)
        if artifact is None:
            return None
        try:
            if artifact.kind is Kind.SCRIPT:
                return self._script(artifact.payload, tool.digest)
            module = wasmtime.Module.deserialize(self.engine, artifact.payload)
        except (wasmtime.WasmtimeError, msgspec.DecodeError, ScriptError, GuestTrap):
            logger.exception("artifact %s does not load", tool.digest.hex())
            return None
        return WasmProgram(self._host, module, tool.entry, tool.digest)

    def _script(self, payload: bytes, digest: bytes) -> Program | None:
        guest = self._guest(QUICKJS)
        if guest is None:
            return None
        previous = self._previous if PREVIOUS in carried() else None
        return JavaScriptProgram(guest, decode(payload), digest, previous)

    def _guest(self, build: str) -> JavaScriptGuest | None:
        """A build of the guest; None where its artifact is not there."""
        guest = self._guests.get(build)
        if guest is None and (engine := self._store.get(engine_digest(build))) is not None:
            guest = self._guests[build] = JavaScriptGuest.load(self.engine, engine.payload, build)
        return guest

    def _previous(self) -> JavaScriptGuest | None:
        try:
            return self._guest(PREVIOUS)
        except wasmtime.WasmtimeError:
            logger.exception("the previous build of the script engine does not load")
            return None
