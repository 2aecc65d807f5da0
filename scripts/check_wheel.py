"""What must be true of the wheel: exactly four packages at its top, with the data files and markers they
need.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "panels_cli": "cli",
    "panels_gateway": "gateway",
    "panels_shared": "shared",
    "panels_worker": "workers",
}
#: Files that are not Python and yet part of a package.
DATA_SUFFIXES = {".js", ".mjs", ".ts", ".wat", ".wasm", ".json", ".html", ".typed"}


def problems(wheel: Path, root: Path) -> list[str]:
    """Sentences about what is wrong with ``wheel``, compared with the checkout at ``root``."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    found: list[str] = []
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    if packages != set(PACKAGES):
        found.append(f"expected {sorted(PACKAGES)} at the top of the wheel, got {sorted(packages)}")
    for name in sorted(names):
        suffix = Path(name).suffix
        if name.split("/")[0] in PACKAGES and suffix != ".py" and suffix not in DATA_SUFFIXES:
            found.append(f"expected code and data only, got {name}")
    for package, folder in PACKAGES.items():
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
    found = problems(Path(sys.argv[1]), Path(__file__).resolve().parent.parent)
    for sentence in found:
        print(f"wheel: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
