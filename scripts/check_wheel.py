"""What must be true of a wheel: exactly its packages at its top, with the data files and markers
they need.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "panels_cli": "cli",
    "panels_gateway": "gateway",
    "panels_shared": "shared",
    "panels_worker": "workers",
}
#: Those of the wheel of ``clients/python``.
CLIENT: Final = {"panels_client": "clients/python"}
#: Files that are not Python and yet part of a package.
DATA_SUFFIXES = {".js", ".mjs", ".ts", ".wat", ".wasm", ".json", ".html", ".typed"}


def problems(wheel: Path, root: Path, expected: Mapping[str, str] = PACKAGES) -> list[str]:
    """Sentences about what is wrong with ``wheel``, compared with the checkout at ``root``."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    found: list[str] = []
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    if packages != set(expected):
        found.append(f"expected {sorted(expected)} at the top of the wheel, got {sorted(packages)}")
    for name in sorted(names):
        suffix = Path(name).suffix
        if name.split("/")[0] in expected and suffix != ".py" and suffix not in DATA_SUFFIXES:
            found.append(f"expected code and data only, got {name}")
    for package, folder in expected.items():
        base = root / folder
        for path in sorted((base / package).rglob("*")):
            name = path.relative_to(base).as_posix()
            if "__pycache__" in name:
                continue
            if path.is_file() and path.suffix in {".py", *DATA_SUFFIXES} and name not in names:
                found.append(f"expected {name} in the wheel, it is missing")
        if f"{package}/py.typed" not in names:
            found.append(f"expected {package}/py.typed in the wheel, it is missing")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("expected the licence in the wheel, it is missing")
    return found


def main() -> int:
    """Exit status: 0 when the wheel named on the command line is as it must be."""
    wheel = Path(sys.argv[1])
    expected = CLIENT if wheel.name.startswith("panels_client-") else PACKAGES
    found = problems(wheel, Path(__file__).resolve().parent.parent, expected)
    for sentence in found:
        print(f"wheel: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
