"""What documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "node_modules", "build", "dist", ".panels"} & set(path.relative_to(ROOT).parts)
)
SOURCES = sorted(
    path
    for folder in ("cli", "gateway", "workers", "shared", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"`((?:docs|tests|scripts|examples|benchmarks|deploy)/[\w./-]+)`")
_IN_SOURCE = re.compile(r"\bdocs/[\w./-]*\w")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in _LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (document.parent / target).exists(), f"a link to {target}"
    for path in _PATH.findall(text):
        assert (ROOT / path).exists(), f"a mention of {path}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_that_sources_mention_are_there(source: Path) -> None:
    for path in _IN_SOURCE.findall(source.read_text()):
        assert (ROOT / path).exists(), f"a mention of {path}"


def test_all_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(_LINK.findall((folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("0*.md")}
