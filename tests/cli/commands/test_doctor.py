"""`panels doctor` against gateways that are well, ill and absent."""

from __future__ import annotations

import json

from tests.cli.conftest import Terminal


def test_findings_and_exit_codes(panels: Terminal, url: str) -> None:
    shown = panels("doctor", "--json")
    assert {"gateway", "health", "trigger", "workers", "clock", "token", "access"} <= {
        finding["what"] for finding in json.loads(shown.out)["findings"]
    }
    bad = panels("--token", "a.b.c", "doctor")
    assert bad.code == 1
    assert "WRONG   token: not a JWT" in bad.out
    assert "WRONG   access" in bad.out
    absent = panels("--url", "http://127.0.0.1:1", "doctor")
    assert absent.code == 3
    assert "→ start it: panels-gateway" in absent.out
    lost = panels("--url", f"{url}/elsewhere", "doctor")
    assert lost.code == 3
