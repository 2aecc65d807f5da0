"""Turns a tool's artifact into a program, in a sandbox process."""

from __future__ import annotations

import logging

import wasmtime

from panels_shared.messages import Tool
from panels_worker.artifacts import ArtifactStore, Kind
from panels_worker.engine import make_engine
from panels_worker.task import Program
from panels_worker.wasm import WasmHost, WasmProgram

logger = logging.getLogger(__name__)


class ArtifactLoader:
    """Loads programs from the artifact store; owns the process's one engine."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.engine = make_engine()
        self._host = WasmHost(self.engine)

    def load(self, tool: Tool) -> Program | None:
        """The program of ``tool``, or None when its artifact is not there or not authentic."""
        artifact = self._store.get(tool.digest)
        if artifact is None:
            return None
        if artifact.kind is Kind.SCRIPT:
            return None
        try:
            module = wasmtime.Module.deserialize(self.engine, artifact.payload)
        except wasmtime.WasmtimeError:
            logger.exception("artifact %s does not load", tool.digest.hex())
            return None
        return WasmProgram(self._host, module, tool.entry)
