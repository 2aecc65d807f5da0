"""The units of systemd: correct, with few rights, and with enough for the programs to run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from panels_gateway.configuration.config import load as load_gateway
from panels_worker.config import parse as load_pool
from tests.integration.guests import ROOT
from tests.support.system import System, eventually
from tests.support.unit import SYSTEMD_ANALYZE, Unit

DEPLOY: Final = ROOT / "deploy"
UNITS: Final = (
    "panels-gateway.service", "panels-gateway.socket", "panels-worker.service", "panels-backup.service",
    "panels-backup.timer",
)  # fmt: skip
DROP_INS: Final = {
    "jwks.conf": "panels-gateway.service",
    "network.conf": "panels-gateway.service",
    "worker-network.conf": "panels-worker.service",
}
#: How exposed a unit may be, by "systemd-analyze security", in tenths.
EXPOSURE: Final = {"panels-gateway.service": 15, "panels-worker.service": 25}

needs_systemd = pytest.mark.skipif(
    SYSTEMD_ANALYZE is None and not os.environ.get("CI_TOOLCHAIN"), reason="systemd-analyze is not installed"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says."""
    assert SYSTEMD_ANALYZE is not None
    return subprocess.run(
        [SYSTEMD_ANALYZE, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def install(folder: Path, drop_ins: tuple[str, ...] = ()) -> list[str]:
    """Copies the units to ``folder``, for programs that are there; their paths."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("panels-gateway", "panels-worker", "panels-backup"):
        program = programs / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/panels/bin/", f"{programs}/")
        (folder / name).write_text(text)
    for name in drop_ins:
        below = folder / f"{DROP_INS[name]}.d"
        below.mkdir()
        text = (DEPLOY / "drop-ins" / name).read_text().replace("/opt/panels/bin/", f"{programs}/")
        (below / name).write_text(text)
    return [str(folder / name) for name in UNITS]


@needs_systemd
@pytest.mark.parametrize("drop_in", [None, *DROP_INS])
def test_units_are_verified_without_a_word(tmp_path: Path, drop_in: str | None) -> None:
    paths = install(tmp_path, (drop_in,) if drop_in else ())
    verdict = analyze("verify", "--man=no", *paths)
    said = [line for line in verdict.stderr.splitlines() if str(tmp_path) in line or "panels" in line]
    assert (verdict.returncode, said) == (0, []), verdict.stderr


@needs_systemd
def test_verification_finds_a_setting_that_does_not_exist(tmp_path: Path) -> None:
    paths = install(tmp_path)
    unit = Path(paths[0])
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", *paths).stderr


@needs_systemd
@pytest.mark.parametrize(("unit", "tenths"), EXPOSURE.items())
def test_unit_is_exposed_no_more_than_it_has_to_be(unit: str, tenths: int) -> None:
    path = str(DEPLOY / unit)
    verdict = analyze("security", "--offline=yes", f"--threshold={tenths}", path)
    assert verdict.returncode == 0, verdict.stdout


@needs_systemd
@pytest.mark.parametrize("unit", EXPOSURE)
def test_every_right_that_a_unit_keeps_has_its_reason_in_the_documents(unit: str) -> None:
    listed = analyze("security", "--offline=yes", "--json=short", str(DEPLOY / unit))
    points: list[dict[str, Any]] = json.loads(listed.stdout)
    kept = [point["name"] for point in points if point["set"] is False and float(point["exposure"] or 0)]
    text = (ROOT / "docs" / "how-to" / "harden.md").read_text()
    section = text.partition(f"## {unit}")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| .+ \|$", section, re.MULTILINE)
    reasons = [name.replace("\\|", "|") for name in rows]
    assert set(kept) == set(reasons)


def test_exit_codes_that_a_restart_does_not_mend_end_the_service() -> None:
    gateway, worker = (Unit.read(DEPLOY / f"panels-{name}.service") for name in ("gateway", "worker"))
    assert gateway.all("RestartPreventExitStatus") == ["65", "78"]
    assert worker.all("RestartPreventExitStatus") == ["78"]
    assert gateway.one("StartLimitIntervalSec", "Unit") == worker.one("StartLimitIntervalSec", "Unit") == "0"


def command(unit: Unit, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables of a unit's program, with its files in ``folder``."""
    arguments = (unit.one("ExecStart") or "").replace("/etc/panels/", f"{folder}/").split()[1:]
    variables = dict(pair.split("=", 1) for pair in unit.all("Environment"))
    return arguments, {name: value.replace("%d", str(folder)) for name, value in variables.items()}


def test_programs_take_the_configuration_that_the_units_name(tmp_path: Path) -> None:
    for name in ("panels.toml", "panels-worker.toml"):
        (tmp_path / name).write_text((DEPLOY / name).read_text())
    arguments, variables = command(Unit.read(DEPLOY / "panels-gateway.service"), tmp_path)
    gateway = load_gateway(arguments, variables, directory=tmp_path)
    assert (gateway.listen.host, gateway.listen.port) == ("127.0.0.1", 3001)
    assert gateway.auth.secret_file == tmp_path / "jwt-secret"
    assert gateway.warnings == ()
    arguments, variables = command(Unit.read(DEPLOY / "panels-worker.service"), tmp_path)
    assert "strict" in arguments
    pool = load_pool(arguments, variables)
    assert pool.gateway == gateway.workers.endpoint


@pytest.mark.parametrize("name", ["panels.toml", "panels-worker.toml"])
def test_every_line_of_the_example_configuration_is_an_option(tmp_path: Path, name: str) -> None:
    text = re.sub(r"^#(?=[a-z-]+ = )", "", (DEPLOY / name).read_text(), flags=re.MULTILINE)
    options = tomllib.loads(text)
    assert len(options) >= 3
    # this machine may have fewer CPUs
    text = text.replace('"2-7"', '"0"')
    (tmp_path / name).write_text(text)
    arguments = ["--config", str(tmp_path / name)]
    if name == "panels.toml":
        assert load_gateway([*arguments, "--no-auth"], {}, directory=tmp_path).listen.public_url
    else:
        assert load_pool(arguments, {}).labels


def test_socket_is_where_the_gateway_listens() -> None:
    options = tomllib.loads((DEPLOY / "panels.toml").read_text())
    socket = Unit.read(DEPLOY / "panels-gateway.socket")
    assert socket.one("ListenStream", "Socket") == f"{options['host']}:{options['port']}"


# -- the programs under their units' rights ----------------------------------------------------------

EXTENSIONS: Final = """
entry_points = false
extensions = ["samples:Sample"]
path = ["{samples}"]
confine = "strict"
"""

COUNT: Final = {
    "name": "count",
    "handler": "$state.count = ($state.count ?? 0) + 1; return await $ext.sample.echo($state.count);",
    "capabilities": ["ext:*", "state:read:*", "state:write:*"],
}
ADD: Final = {"name": "add", "handler": {"language": "typescript", "source": "return $args.a as number + 1;"}}


def under(unit: str) -> list[str]:
    """The command that starts another with the rights of ``unit``."""
    return [sys.executable, "-m", "tests.support.unit_rights", str(DEPLOY / unit)]


@needs_systemd
@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give up the rights of root")
@pytest.mark.timeout(180)
def test_programs_run_with_the_rights_of_their_units(tmp_path: Path) -> None:
    """Everything that they do from start to end: compile, run, record, fold, call out, replace, stop."""
    file = tmp_path / "extensions.toml"
    file.write_text(EXTENSIONS.format(samples=ROOT / "tests" / "gateway" / "extensions"))
    pool = ("--confinement", "strict", "--user", "nobody", "--cpu-affinity", "0", "--nice", "1")
    with System(gateway=["--extensions", str(file)], pool=pool) as system:
        path = {"PYTHONPATH": str(ROOT)}
        system.start_gateway(wait=False, under=under("panels-gateway.service"), environment=path)
        system.start_pool(processes=2, under=under("panels-worker.service"), environment=path)
        system.await_listening()
        system.await_ready()
        health = system.http.get("/health").json()
        assert [pool["missing"] for pool in health["pools"]] == [{}]
        assert health["journal"]["folding"] == "up"
        panel = system.make_panel(COUNT, ADD, state={"count": 0})
        with system.connect(panel) as client:
            assert [client.call("count") for _ in range(3)] == [1, 2, 3]
            assert client.call("add", {"a": 1}) == 2
            before = {process.pid for process in system.sandboxes()}
            system.pool.signal(signal.SIGHUP)
            eventually(
                lambda: (
                    len(system.sandboxes()) == 2
                    and not before & {process.pid for process in system.sandboxes()}
                ),
                within_s=60,
                what="the sandboxes to be replaced",
            )
            assert client.call("count") == 4
        system.the_gateway().signal(signal.SIGHUP)
        eventually(lambda: system.state(panel)["count"] == 4, what="the state")
        eventually(
            lambda: system.http.get("/health").json()["journal"]["backlogBytes"] == 0,
            what="the log to be folded",
        )
        system.close_http()
        assert (system.pool.stop(), system.the_gateway().stop()) == (0, 0)
        logs = "\n".join(process.text for process in system.processes())
        assert "not permitted" not in logs
        assert "SIGSYS" not in logs
        assert system.defects() == []


@needs_systemd
@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give up the rights of root")
def test_rights_that_a_unit_does_not_give_are_gone() -> None:
    """The tool of the test above does what it says."""
    tries = {
        "import os; os.setpriority(os.PRIO_PROCESS, 0, 1); print('done')": "done",
        "import ctypes; ctypes.CDLL(None).mount(None, None, None, 0, None)": "SIGSYS",
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)": "PermissionError",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)": "OSError",
        "import os; os.chown('/tmp', 1, 1)": "SIGSYS",
    }
    for code, expected in tries.items():
        ran = subprocess.run(
            [*under("panels-gateway.service"), sys.executable, "-c", code],
            capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        )  # fmt: skip
        said = "SIGSYS" if ran.returncode == -signal.SIGSYS else ran.stdout + ran.stderr
        assert expected in said, (code, said)
