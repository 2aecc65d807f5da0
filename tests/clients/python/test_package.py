"""The distribution: it builds, installs where nothing else is, and its README's programs run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_is_built_and_imports_without_the_server(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path))
    run(*build, str(ROOT / "clients" / "python"))
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, str(ROOT / "scripts" / "check_wheel.py"), str(wheel))
    run(
        sys.executable,
        "-m",
        "pip",
        "-q",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "x"),
        str(wheel),
    )
    # of what is installed elsewhere, websockets alone is let in
    code = """
import sys, pathlib, panels_client.sync
assert pathlib.Path(panels_client.__file__).is_relative_to(sys.argv[1])
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"panels_shared", "panels_gateway", "panels_worker", "msgspec", "httpx"}, loaded
"""
    run(
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path / 'x')!r})\n{code}",
        str(tmp_path),
    )
