"""``scripts/audit.py`` against a database of advisories of the test's own, asked by the real pip-audit."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]

ADVISORY = {
    "id": "PYSEC-2020-1",
    "aliases": ["CVE-2020-1"],
    "summary": "a hole",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "leaky"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Database(BaseHTTPRequestHandler):
    """Has one advisory, on ``leaky``, and fails when it is asked about ``broken``."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        answer: Mapping[str, object] = {"vulns": [ADVISORY]} if asked == "leaky" else {}
        body = json.dumps(answer).encode()
        self.send_response(500 if asked == "broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's own name
        pass


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """scripts/audit.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # msgspec looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The arguments by which pip-audit asks it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ["--vulnerability-service=osv", f"--osv-url=http://127.0.0.1:{server.server_port}/v1/query"]
        server.shutdown()
        thread.join()


def lock(folder: Path, *pins: str) -> list[Path]:
    """A lock with ``pins``, as ``scripts/lock`` writes it."""
    path = folder / "lock.txt"
    path.write_text("".join(f"{pin} \\\n    --hash=sha256:{'0' * 64}\n    # via nobody\n" for pin in pins))
    return [path]


def test_advisory_fails_the_audit_and_names_the_fixed_version(
    audit: ModuleType, tmp_path: Path, database: list[str]
) -> None:
    verdict = audit.audit(lock(tmp_path, "leaky==1.0", "sound==2.0"), database)
    assert verdict.code == 1
    assert verdict.lines[0] == "audit: leaky 1.0: PYSEC-2020-1, CVE-2020-1; fixed in 1.1"


def test_audit_passes_where_there_is_no_advisory(
    audit: ModuleType, tmp_path: Path, database: list[str]
) -> None:
    verdict = audit.audit(lock(tmp_path, "sound==2.0"), database)
    assert verdict == (0, ["audit: the database has no advisory for 1 packages"])


def test_accepted_advisory_does_not_fail_the_audit(
    audit: ModuleType, tmp_path: Path, database: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2020-1": "it needs a feature that panels does not use"})
    assert audit.audit(lock(tmp_path, "leaky==1.0"), database).code == 0


def test_audit_is_not_run_where_the_database_fails(
    audit: ModuleType, tmp_path: Path, database: list[str]
) -> None:
    code, (line,) = audit.audit(lock(tmp_path, "broken==1.0"), database)
    assert code == 0
    assert line.startswith("audit: not run: the database of advisories cannot be reached: ")


def test_audit_is_not_run_where_nobody_listens(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        port = server.server_port
    arguments = ["--vulnerability-service=osv", f"--osv-url=http://127.0.0.1:{port}/v1/query"]
    code, (line,) = audit.audit(lock(tmp_path, "sound==2.0"), arguments)
    assert code == 0
    assert line.startswith("audit: not run: ")


def test_lock_that_cannot_be_read_is_an_error(audit: ModuleType, tmp_path: Path, database: list[str]) -> None:
    verdict = audit.audit(lock(tmp_path, "no version"), database)
    assert verdict.code == 2


def test_packages_that_the_database_does_not_know_are_named(audit: ModuleType) -> None:
    known = {"name": "sound", "version": "2.0", "vulns": []}
    unknown = {"name": "obscure", "skip_reason": "not found"}
    some = audit.judge(json.dumps({"dependencies": [known, unknown], "fixes": []}), "")
    assert some == (0, ["audit: the database has no advisory for 1 packages; it does not know obscure"])
    none = audit.judge(json.dumps({"dependencies": [unknown], "fixes": []}), "")
    assert none == (0, ["audit: not run: the database of advisories knows none of 1 packages"])


def test_advisory_without_a_fix_says_so(audit: ModuleType) -> None:
    report = {"dependencies": [{"name": "leaky", "version": "1", "vulns": [{"id": "X", "fix_versions": []}]}]}
    assert audit.judge(json.dumps(report), "").lines[0].endswith("there is no fixed version yet")
