"""scripts/install-service, into an empty folder: what it makes, a second time, in vain, and back again."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from panels_gateway.access.keys import load_keyring
from panels_shared.buskey import parse_bus_key
from tests.integration.guests import ROOT

pytestmark = pytest.mark.skipif("os.geteuid() != 0", reason="only root makes users and gives files away")

SCRIPT: Final = ROOT / "scripts" / "install-service"
KEYS: Final = ("etc/panels/jwt-secret", "etc/panels/bus-key")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with these arguments."""
    return subprocess.run(
        [str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )


def install(root: Path, *arguments: str) -> str:
    """Has the script succeed; what it said."""
    ran = run("--root", str(root), *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and contents of everything below ``root``; what useradd keeps for itself is left out."""
    return dict(_entries(root))


def _entries(root: Path) -> Iterator[tuple[str, tuple[int, bytes]]]:
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not re.fullmatch(r"etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock", name):
            yield name, (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")


def test_installation_has_users_keys_configuration_units_and_documents(tmp_path: Path) -> None:
    said = install(tmp_path)
    found = tree(tmp_path)
    users = (tmp_path / "etc" / "passwd").read_text()
    assert re.findall(r"^(\S+?):.*:/usr/sbin/nologin$", users, re.MULTILINE) == ["panels", "panels-sandbox"]
    for key in KEYS:
        assert stat.S_IMODE(found[key][0]) == 0o600
        assert re.fullmatch(rb"[0-9a-f]{64}\n", found[key][1])
        assert found[key][1].decode().strip() not in said, "a key must not be shown"
    assert stat.S_IMODE(found["etc/panels"][0]) == 0o755
    for path in (ROOT / "deploy").glob("panels-*.*"):
        if path.suffix not in (".service", ".socket", ".timer"):
            continue
        name = path.name
        assert found[f"etc/systemd/system/{name}"][1] == path.read_bytes()
    assert "etc/panels/panels.toml" in found
    # the units name documents
    for document in re.findall(r"file://(\S+)", (ROOT / "deploy" / "panels-gateway.service").read_text()):
        assert document.removeprefix("/") in found
    assert "systemctl enable --now panels-gateway panels-worker" in said


def test_keys_that_are_made_are_taken_by_the_programs(tmp_path: Path) -> None:
    install(tmp_path)
    assert load_keyring(tmp_path / KEYS[0], None, ())
    assert len(parse_bus_key((tmp_path / KEYS[1]).read_bytes(), path="bus-key")) == 32


def test_second_installation_changes_nothing_and_says_so(tmp_path: Path) -> None:
    install(tmp_path)
    before = tree(tmp_path)
    said = install(tmp_path)
    assert tree(tmp_path) == before
    assert not re.search(r"^(make|install|replace|keep|close)", said, re.MULTILINE), said


def test_installation_again_keeps_keys_and_configuration_and_renews_units(tmp_path: Path) -> None:
    install(tmp_path)
    configuration = tmp_path / "etc" / "panels" / "panels.toml"
    configuration.write_text("port = 4001\n")
    secret = (tmp_path / KEYS[0]).read_bytes()
    (tmp_path / KEYS[0]).chmod(0o644)
    unit = tmp_path / "etc" / "systemd" / "system" / "panels-worker.service"
    unit.write_text("[Service]\n")
    said = install(tmp_path)
    assert configuration.read_text() == "port = 4001\n"
    assert (tmp_path / KEYS[0]).read_bytes() == secret
    assert stat.S_IMODE((tmp_path / KEYS[0]).stat().st_mode) == 0o600
    assert unit.read_bytes() == (ROOT / "deploy" / "panels-worker.service").read_bytes()
    assert "keep /etc/panels/panels.toml" in said
    assert "replace /etc/systemd/system/panels-worker.service" in said
    assert "close /etc/panels/jwt-secret" in said


@pytest.mark.parametrize("arguments", [(), ("--uninstall",), ("--uninstall", "--purge")])
def test_dry_run_says_what_would_be_done_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    if arguments:
        install(tmp_path)
    before = tree(tmp_path)
    said = install(tmp_path, "--dry-run", *arguments)
    assert tree(tmp_path) == before
    assert said.count("would ") >= 3
    assert "nothing has been changed" in said


def test_uninstallation_leaves_keys_data_and_users_and_purging_leaves_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    data = tmp_path / "var" / "lib" / "panels" / "panels.db"
    data.parent.mkdir(parents=True)
    data.write_text("state")
    said = install(tmp_path, "--uninstall")
    assert "Kept: /etc/panels, /var/lib/panels" in said
    assert data.exists()
    assert (tmp_path / KEYS[0]).exists()
    assert not [path for kind in ("service", "socket", "timer") for path in tmp_path.rglob(f"*.{kind}")]
    assert "panels:" in (tmp_path / "etc" / "passwd").read_text()
    install(tmp_path, "--uninstall", "--purge")
    files = [path for path in tmp_path.rglob("*panels*") if path.is_file()]
    assert (files, data.exists()) == ([], False)
    for name in ("passwd", "group"):
        assert "panels" not in (tmp_path / "etc" / name).read_text()
    # what is not there need not be removed
    assert "remove" not in install(tmp_path, "--uninstall").replace("removes", "").replace("Removed", "")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--frobnicate",), 2, "got '--frobnicate'"),
        (("--root",), 2, "behind --root"),
        (("--root", "/nonexistent/folder"), 1, "expected a folder at --root"),
        (("--purge",), 2, "--purge with --uninstall only"),
        (("--wheel", "/nonexistent.whl"), 1, "expected a file at --wheel"),
        (("--uninstall", "--wheel", "x.whl"), 2, "--wheel without --uninstall"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...], code: int, says: str) -> None:
    ran = run(*arguments)
    assert (ran.returncode, ran.stdout) == (code, "")
    (line,) = ran.stderr.splitlines()
    assert says in line


def test_help_names_every_option() -> None:
    shown = run("--help").stdout
    known = set(re.findall(r"^\s+(--[a-z-]+)(?: \| (--[a-z-]+))?\)", SCRIPT.read_text(), re.MULTILINE))
    for option in {name for pair in known for name in pair if name}:
        assert option in shown
