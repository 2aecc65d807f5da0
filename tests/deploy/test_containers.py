"""The image and the compose file, read: what they are made of, who runs, and what they must not hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from panels_gateway.configuration.config import load as load_gateway
from panels_worker.config import parse as load_pool
from tests.integration.guests import ROOT
from tests.support.unit import Unit

DEPLOY: Final = ROOT / "deploy"
CONTAINERFILE: Final = DEPLOY / "Containerfile"
HADOLINT: Final = shutil.which("hadolint")
COMPOSE: Final = DEPLOY / "compose.yaml"
#: What an instruction may be; others are misspelt, or have no business here.
INSTRUCTIONS: Final = {
    "ARG", "FROM", "COPY", "RUN", "ENV", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "CMD",
}  # fmt: skip
_SECRET: Final = re.compile(r"(?i)\b\w*(password|passwd|secret|token|api_?key|private)\w*\s*[=:]\s*[^\s/$.]")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Containerfile, in order."""
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not (line.strip() or whole):
            continue
        whole += line.rstrip().removesuffix("\\").strip() + " "
        if line.rstrip().endswith("\\"):
            continue
        word, _, rest = whole.strip().partition(" ")
        yield word.upper(), rest.strip()
        whole = ""


def faults(text: str) -> list[str]:
    """What is wrong with a Containerfile."""
    found: list[str] = []
    steps = list(instructions(text))
    found += [f"unknown instruction {word}" for word, _ in steps if word not in INSTRUCTIONS]
    arguments = dict(rest.split("=", 1) for word, rest in steps if word == "ARG" and "=" in rest)
    stages: list[str] = []
    user = "root"
    for word, rest in steps:
        if word == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], ""), rest.split()[0])
            if image not in stages and not re.search(r":\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", image):
                found.append(f"the base {image!r} is not pinned")
            stages += re.findall(r"(?i) AS (\S+)", rest)
            user = "root"
        elif word == "USER":
            user = rest.split(":")[0]
        elif word == "RUN":
            if "apt-get install" in rest and not {"--no-install-recommends", "/var/lib/apt/lists/*"} <= set(
                rest.split()
            ):
                found.append("apt-get installs more than was asked for, or leaves its lists")
            if "pip install" in rest and not re.search(r"--require-hashes|--no-deps", rest):
                found.append("pip installs what has no hash")
            if re.search(r"\b(sudo|curl|wget)\b", rest):
                found.append("something is fetched that nothing verifies")
        elif word in ("CMD", "HEALTHCHECK"):
            listed = rest.rpartition(" CMD ")[2] if word == "HEALTHCHECK" else rest
            if not listed.startswith("[") or not all(isinstance(item, str) for item in json.loads(listed)):
                found.append(f"{word} is run by a shell, which does not pass signals on")
        elif word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                if not source.startswith("dist/") and not (ROOT / source).is_file():
                    found.append(f"{source} is not there")
    if user in ("root", "0"):
        found.append("the last user is root")
    checks = [rest for word, rest in steps if word == "HEALTHCHECK"]
    if not checks or "/health/ready" not in checks[-1]:
        found.append("no HEALTHCHECK by /health/ready")
    found += [
        f"a secret in {rest[:40]!r}"
        for word, rest in steps
        if word in ("ARG", "ENV") and _SECRET.search(rest)
    ]
    return found


def test_containerfile_has_no_fault() -> None:
    assert faults(CONTAINERFILE.read_text()) == []


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    said = subprocess.run(
        [HADOLINT, str(CONTAINERFILE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("3.11.14-slim-bookworm", "latest", "not pinned"),
        ("USER 970:970\n", "", "root"),
        ("/health/ready", "/", "HEALTHCHECK"),
        ("--no-install-recommends ", "", "apt-get"),
        ("--require-hashes ", "", "no hash"),
        ("ENV PATH", "ENV JWT_SECRET=abc PATH", "secret"),
        ("STOPSIGNAL", "STOPSIGNL", "unknown instruction"),
        ("deploy/panels.toml", "deploy/panels.tml", "not there"),
        ('CMD ["panels-gateway"', 'CMD panels-gateway ["', "shell"),
    ],
)
def test_faults_of_a_containerfile_are_found(old: str, new: str, fault: str) -> None:
    text = CONTAINERFILE.read_text()
    assert old in text
    assert any(fault in found for found in faults(text.replace(old, new)))


def test_only_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    copied = {
        source
        for word, rest in instructions(CONTAINERFILE.read_text())
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert {pattern.removeprefix("!") for pattern in patterns[1:]} == copied


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file, by name."""
    loaded = yaml.safe_load(COMPOSE.read_text())
    return dict(loaded["services"])


def test_services_are_confined() -> None:
    worker = Unit.read(DEPLOY / "panels-worker.service")
    given = {name.removeprefix("CAP_") for name in worker.all("CapabilityBoundingSet")}
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged")
        assert "pid" not in service
        assert "devices" not in service
        assert not any("docker.sock" in str(volume) for volume in service["volumes"])
        assert re.fullmatch(r"panels:\d+\.\d+\.\d+", service["image"])
        assert service["mem_limit"]
        assert service["pids_limit"]
        if name == "worker":
            assert set(service["cap_add"]) == given
            assert service["network_mode"] == "none"
        else:
            assert "user" not in service
            assert "cap_add" not in service
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_services_are_given_time_to_stop_as_the_units_are() -> None:
    for service in services().values():
        assert service["stop_grace_period"] == "30s"


def test_compose_file_holds_no_secret() -> None:
    loaded = yaml.safe_load(COMPOSE.read_text())
    assert all(set(secret) == {"file"} for secret in loaded["secrets"].values())
    assert not any("environment" in service for service in loaded["services"].values())


def test_everything_that_is_named_is_declared() -> None:
    loaded = yaml.safe_load(COMPOSE.read_text())
    for service in services().values():
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(loaded["volumes"])
        assert set(service.get("secrets", ())) <= set(loaded["secrets"])
        build = service["build"]
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()


def test_commands_are_taken_by_the_programs(tmp_path: Path) -> None:
    for name in ("panels.toml", "panels-worker.toml"):
        (tmp_path / name).write_text((DEPLOY / name).read_text())

    def here(arguments: list[str]) -> list[str]:
        return [argument.replace("/etc/panels/", f"{tmp_path}/") for argument in arguments]

    (listed,) = (rest for word, rest in instructions(CONTAINERFILE.read_text()) if word == "CMD")
    program, *arguments = json.loads(listed)
    assert program == "panels-gateway"
    gateway = load_gateway(here(arguments), {}, directory=tmp_path)
    program, *arguments = services()["worker"]["command"]
    assert program == "panels-worker"
    pool = load_pool(here(arguments), {})
    assert pool.gateway == gateway.workers.endpoint
    assert pool.confinement == "strict"
