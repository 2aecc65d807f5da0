"""The documents of the repository as a site: ``scripts/docs`` builds it, with warnings as errors.

The repository itself is the source folder, so that every link between documents, and to files beside them,
is the same on the site as where the files are. The pages say nothing that is for the site alone: what ties
them together stands here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).resolve().parents[2]

project = "panels"
author = "the panels developers"
root_doc = "README"
extensions = ["myst_parser"]
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "docs/how-to/*.md",
    "benchmarks/*.md",
    "clients/*/README.md",
    "examples/README.md",
    "tests/vectors/*/README.md",
]
exclude_patterns = [".*", "build", "dist", "**/node_modules"]
myst_heading_anchors = 4
# signatures and JSX are shown as what they are nearest to
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "none"
html_theme = "furo"
html_title = "panels"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["panels.css"]
html_theme_options = {"navigation_with_keys": True}

#: The sidebar: headings, and the documents below each.
SIDEBAR: Final[dict[str, tuple[str, ...]]] = {
    "Tutorial": ("docs/tutorial",),
    "How to": (
        "docs/cli",
        "docs/panel-folders",
        "docs/clients",
        "docs/handlers",
        "docs/extensions",
        "docs/operations",
        "docs/how-to/README",
        "examples/README",
    ),
    "Reference": (
        "docs/protocol", "docs/configuration", "docs/limits",
        "docs/metrics", "docs/abi", "docs/language-features",
        "docs/ecmascript", "docs/journal", "docs/conformance", "tests/vectors/resume/README",
        "clients/python/README", "clients/typescript/README",
    ),
    "Explanation": (
        "docs/architecture", "docs/guarantees", "docs/security", "docs/isolation", "docs/performance",
        "docs/decisions/README",
    ),
    "Figures": ("benchmarks/README", "benchmarks/RESULTS", "benchmarks/WAITING", "benchmarks/ISOLATION"),
    "The project": ("CHANGELOG", "CONTRIBUTING", "SECURITY"),
}  # fmt: skip

_LINK: Final = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)\)")


def _toctree(documents: tuple[str, ...], caption: str = "") -> str:
    options = f":caption: {caption}\n" if caption else ""
    return (
        f"\n```{{toctree}}\n:hidden:\n{options}\n" + "\n".join(f"/{name}" for name in documents) + "\n```\n"
    )


def _amend(app: Sphinx, document: str, source: list[str]) -> None:
    """Adds the sidebar to the first page and the list of decisions to theirs. A link to a folder, of which
    the site has no page, becomes its name.
    """
    folder = (ROOT / document).parent

    def name(found: re.Match[str]) -> str:
        text, target = found.groups()
        if not (folder / target).is_dir():
            return found[0]
        return text if text.startswith("`") else f"`{text}`"

    text = _LINK.sub(name, source[0])
    if document == root_doc:
        text += "".join(_toctree(documents, caption) for caption, documents in SIDEBAR.items())
    elif document in ("docs/decisions/README", "docs/how-to/README"):
        pages = sorted(path.stem for path in folder.glob("*.md") if path.stem != "README")
        text += _toctree(tuple(f"{Path(document).parent}/{page}" for page in pages))
    source[0] = text


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _amend)
