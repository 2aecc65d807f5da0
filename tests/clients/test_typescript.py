"""The client in TypeScript: its own tests, its size, its package, and the client against a real gateway.

They are skipped where node or npm is missing, and fail there if ``CI_TOOLCHAIN`` is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.system import System, running_system

PACKAGE: Final = Path(__file__).resolve().parents[2] / "clients" / "typescript"
OLDEST_NODE: Final = 20
INSTALL: Final = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]


def _missing() -> str:
    """What the tests need and this machine does not have; empty if nothing."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            return f"expected {name} on PATH, found none; install it: apt-get install nodejs npm"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        return f"expected node {OLDEST_NODE} or later, got {version.strip()}"
    return ""


def run(*command: str, folder: Path = PACKAGE, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. Fails the test when the command fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """The package's folder, with what its development needs installed."""
    if missing := _missing():
        if os.environ.get("CI_TOOLCHAIN"):
            pytest.fail(missing)
        pytest.skip(missing)
    wanted = json.loads((PACKAGE / "package.json").read_text())["devDependencies"]
    installed = PACKAGE / "node_modules"
    for name, version in wanted.items():
        manifest = installed / name / "package.json"
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
            run(*INSTALL)
            break
    return PACKAGE


@pytest.mark.timeout(300)
def test_types_are_clean(package: Path) -> None:
    run("node", "node_modules/typescript/bin/tsc", "--noEmit", folder=package)


@pytest.mark.timeout(300)
def test_own_tests_pass(package: Path) -> None:
    run("node", "scripts/test.mjs", folder=package)


@pytest.mark.timeout(300)
def test_size_is_within_its_limits(package: Path) -> None:
    run("node", "scripts/size.mjs", folder=package)


@pytest.mark.timeout(300)
def test_example_applications_have_the_client_as_it_is(package: Path) -> None:
    run("node", "scripts/build.mjs", folder=package)
    built = (package / "dist" / "index.js").read_text()
    ours = (PACKAGE.parents[1] / "examples" / "applications" / "client.js").read_text()
    lines = [line for line in built.splitlines() if not line.startswith("//# sourceMappingURL")]
    assert ours.splitlines()[1:] == lines, "run scripts/build-examples client"


@pytest.mark.timeout(300)
def test_package_can_be_installed_imported_and_compiled_against(package: Path, tmp_path: Path) -> None:
    run("node", "scripts/build.mjs", folder=package)
    run("npm", "pack", "--ignore-scripts", "--pack-destination", str(tmp_path), folder=package)
    (archive,) = tmp_path.glob("*.tgz")
    home = tmp_path / "node_modules" / "@panels" / "client"
    home.mkdir(parents=True)
    run("tar", "-xzf", str(archive), "--strip-components=1", "-C", str(home))
    assert not (home / "src").exists()
    assert not (home / "node_modules").exists()
    use = (
        'import { connect, CallError, type Panel } from "@panels/client";\n'
        "interface Counter { count: number; names: string[] }\n"
        'const panel: Panel<Counter> = connect<Counter>("ws://127.0.0.1:9", { panel: "p" });\n'
        'panel.subscribe("count", (now, before) => now === before);\n'
        'const optimistic = (draft: Counter) => { draft.names.push("a"); };\n'
        'panel.call<number>("t", 1, { optimistic }).catch((error) => error instanceof CallError);\n'
        "const wrong: string = panel.state.count;\n"
        "panel.close();\n"
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "use.ts").write_text(use.replace("const wrong: string", "export const right: number"))
    compiler = ["node", str(package / "node_modules" / "typescript" / "bin" / "tsc"), "--strict"]
    compiler += ["--module", "nodenext", "--target", "es2022", "--types", "", "--lib", "es2023,dom"]
    run(*compiler, "use.ts", folder=tmp_path)
    run("node", "use.js", folder=tmp_path)
    (tmp_path / "wrong.ts").write_text(use)
    refused = subprocess.run([*compiler, "wrong.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.stdout.count("error TS") == 1, refused.stdout


# -- a real gateway ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system(package: Path) -> Iterator[System]:
    """A gateway that warns of a token's end two seconds before it; the tests kill and restart it."""
    with running_system(gateway=("--token-warning-s", "2")) as started:
        yield started


def _controls(system: System) -> HTTPServer:
    """What the tests in TypeScript ask for: ``/token?seconds=`` and ``/restart``.

    It serves in the test's own thread: a process that is started here dies with the thread that started it.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers one request."""
            asked = urlsplit(self.path)
            query = parse_qs(asked.query)
            body = ""
            if asked.path == "/token":
                body = system.issuer.mint(expires_in_s=float(query["seconds"][0]))
            elif asked.path == "/restart":
                system.the_gateway().kill()
                system.start_gateway()
                system.await_ready()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.timeout = 0.1
    return server


@pytest.mark.timeout(300)
@pytest.mark.parametrize("option", ["--experimental-websocket", "--no-experimental-websocket"])
def test_client_works_with_a_real_gateway(package: Path, system: System, tmp_path: Path, option: str) -> None:
    """With the WebSocket of Node, and with the package's own for versions that have none."""
    server = _controls(system)
    environment = {
        **os.environ,
        "NODE_OPTIONS": option,
        "PANELS_URL": system.url,
        "PANELS_TOKEN": system.token(),
        "PANELS_CONTROLS": f"http://127.0.0.1:{server.server_address[1]}",
    }
    log = tmp_path / "log"
    with server, log.open("wb") as output:
        command = ["node", "scripts/test.mjs", "integration"]
        child = subprocess.Popen(command, cwd=package, env=environment, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                server.handle_request()
        finally:
            child.kill()
            child.wait()
    printed = log.read_text(errors="replace")
    assert child.returncode == 0, printed
    assert "# skipped 0" in printed, printed


@pytest.mark.timeout(300)
def test_first_example_of_the_readme_runs_as_printed(package: Path, system: System) -> None:
    run("node", "scripts/build.mjs", folder=package)
    example = (package / "README.md").read_text().partition("```js\n")[2].partition("```")[0]
    counter = json.loads((package.parents[1] / "examples" / "panels" / "counter.json").read_text())
    assert system.http.post("/panels", json=counter).status_code == 201
    # a package finds itself by its name
    (package / "build").mkdir(exist_ok=True)
    (package / "build" / "readme.mjs").write_text(example)
    environment = {"PANELS_URL": system.url, "PANELS_TOKEN": system.token()}
    printed = run("node", "build/readme.mjs", folder=package, environment=environment)
    assert printed == "the count is 1\nthe handler returned 1\n"
