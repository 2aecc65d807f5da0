"""What `panels apply` does: the differences between a folder and the panel, and the request that ends them.
Pure.

The gateway tells everything of a panel but the sources of its handlers, for which it tells digests. Limits
that a folder does not name are the gateway's, and a panel shows them all; so that a line which was taken out
of ``panel.toml`` is noticed too, the folder's fingerprint lies in the panel's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from panels_cli import diff
from panels_cli.faults import RefusedError
from panels_shared.errors import Code
from panels_shared.panel_folder import FINGERPRINT, PANEL_FILE, Folder, FolderTool
from panels_shared.snippet import caret

Verdict = Literal["added", "changed", "removed"]


@dataclass(frozen=True, slots=True)
class ToolChange:
    """A tool that differs. Digests are hexadecimal, "" where there is none; ``fields`` names what else
    differs.
    """

    name: str
    verdict: Verdict
    old_digest: str = ""
    new_digest: str = ""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: ``POST`` or ``PUT`` with ``body``, or nothing where ``method`` is None.

    ``fields`` names fields of the panel that differ, ``tools`` its tools.
    """

    method: Literal["POST", "PUT"] | None
    fields: tuple[str, ...] = ()
    tools: tuple[ToolChange, ...] = ()
    body: bytes = field(default=b"", repr=False)

    @property
    def removed(self) -> tuple[str, ...]:
        """The tools that the panel has and the folder has not."""
        return tuple(change.name for change in self.tools if change.verdict == "removed")


def plan(folder: Folder, panel: Mapping[str, Any] | None) -> Plan:
    """The plan for ``panel``, the answer of GET /panels/{id}; None where there is no such panel."""
    if panel is None:
        added = tuple(ToolChange(tool.name, "added", new_digest=tool.digest) for tool in folder.tools)
        return Plan("POST", (), added, folder.made)
    tools = tuple(_tools(folder, panel.get("tools") or []))
    fields = tuple(_fields(folder, panel))
    metadata = panel.get("metadata")
    stamped = metadata.get(FINGERPRINT) if isinstance(metadata, dict) else None
    if not tools and not fields and stamped == folder.fingerprint:
        return Plan(None)
    return Plan("PUT", fields or (() if tools else ("settings",)), tools, folder.replaced)


def _fields(folder: Folder, panel: Mapping[str, Any]) -> Iterator[str]:
    if panel.get("kind") != folder.kind:
        yield "kind"
    if panel.get("title") != folder.title:
        yield "title"


def _tools(folder: Folder, shown: list[Mapping[str, Any]]) -> Iterator[ToolChange]:
    there = {str(tool.get("name")): tool for tool in shown}
    for tool in folder.tools:
        other = there.pop(tool.name, None)
        if other is None:
            yield ToolChange(tool.name, "added", new_digest=tool.digest)
            continue
        digest, fields = str(other.get("digest", "")), tuple(_settings(tool, other))
        if digest != tool.digest or fields:
            yield ToolChange(tool.name, "changed", digest, tool.digest, fields)
    for name, other in there.items():
        yield ToolChange(name, "removed", old_digest=str(other.get("digest", "")))


def _settings(tool: FolderTool, shown: Mapping[str, Any]) -> Iterator[str]:
    wanted = tool.fields
    for name, value in (
        ("description", wanted.get("description")),
        ("exclusive", wanted.get("exclusive", False)),
        ("capabilities", wanted.get("capabilities")),
        ("args", wanted.get("args")),
        ("returns", wanted.get("returns")),
    ):
        if not diff.same(value, shown.get(name)):
            yield name
    for name, table in (
        ("trigger", wanted.get("trigger", {"type": "manual"})),
        ("limits", wanted.get("limits", {})),
        ("quota", wanted.get("quota", {})),
    ):
        # what the folder does not name is the gateway's to choose, and shown all the same
        other = shown.get(name) or {}
        if isinstance(table, dict) and any(not _alike(value, other.get(key)) for key, value in table.items()):
            yield name


def _alike(wanted: Any, shown: Any) -> bool:
    # the gateway shows whole numbers of seconds with a fraction
    numbers = isinstance(wanted, (int, float)) and isinstance(shown, (int, float))
    return bool(wanted == shown) if numbers else diff.same(wanted, shown)


def explained(folder: Folder, path: str, error: RefusedError) -> RefusedError:
    """An error of the gateway about a folder, with the file that it is about."""
    details = error.details
    if error.code == Code.INVALID_HANDLER:
        tool = next((tool for tool in folder.tools if tool.name == details.get("tool")), None)
        if tool is not None:
            line, column = details.get("line"), details.get("column")
            place = "".join(f":{number}" for number in (line, column) if number is not None)
            said = RefusedError(error.code, f"{path}/{tool.file}{place}: {error.message}", details)
            if isinstance(line, int) and tool.language != "wasm":
                said.appendix = caret(tool.source.decode(errors="replace"), line, column)
            return said
    if error.code == Code.INVALID_REQUEST:
        return RefusedError(error.code, f"{path}/{PANEL_FILE}: {_by_name(folder, error.message)}", details)
    return error


def _by_name(folder: Folder, message: str) -> str:
    # the gateway counts tools, a folder names them
    return re.sub(
        r"\btools\[(\d+)\]",
        lambda found: (
            f"tools.{folder.tools[int(found[1])].name}" if int(found[1]) < len(folder.tools) else found[0]
        ),
        message,
    )
