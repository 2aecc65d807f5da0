"""The guides: every snippet is a part of a file, and the files do what the guides say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenError, TokenRules, TokenVerifier
from panels_gateway.configuration.config import GatewayConfig, load
from panels_gateway.configuration.options import OPTIONS
from panels_worker.config import OPTIONS as WORKER_OPTIONS
from tests.integration.guests import ROOT, counter
from tests.support.system import System, running_system

DEPLOY: Final = ROOT / "deploy"
EXAMPLES: Final = DEPLOY / "examples"
GUIDES: Final = sorted((ROOT / "docs" / "how-to").glob("*.md"))
#: A fenced snippet, and the comment before it that names its file.
_SNIPPET: Final = re.compile(r"(?:<!-- (\S+) -->\n)?^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_snippet_is_a_part_of_a_file(guide: Path) -> None:
    for name, snippet in _SNIPPET.findall(guide.read_text()):
        assert name, f"no file is named before {snippet[:80]!r}"
        assert snippet in (ROOT / name).read_text(), f"{name} has no such part as {snippet[:80]!r}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_option_that_a_guide_names_exists(guide: Path) -> None:
    known = {option.name for option in (*OPTIONS, *WORKER_OPTIONS)}
    text = guide.read_text()
    flags = set(re.findall(r"`--([a-z-]+)`", text)) - {"uninstall", "dry-run", "root"}
    assert flags <= known


def test_every_guide_is_listed() -> None:
    listed = (ROOT / "docs" / "how-to" / "README.md").read_text()
    assert all(f"({guide.name})" in listed for guide in GUIDES if guide.name != "README.md")


@pytest.mark.parametrize("script", [EXAMPLES / "refresh-jwks", DEPLOY / "panels-backup", DEPLOY / "upgrade"])
def test_scripts_can_be_read_by_a_shell(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=60)


# -- configuration -----------------------------------------------------------------------------------


def configured(name: str, tmp_path: Path) -> GatewayConfig:
    """The configuration of an example, beside the keys of an issuer in ``tmp_path``."""
    text = (EXAMPLES / name).read_text().replace("/etc/panels/", f"{tmp_path}/")
    (tmp_path / name).write_text(text)
    arguments = ["--config", str(tmp_path / name)]
    if "jwks" not in text:
        arguments.append("--no-auth")
    return load(arguments, {}, directory=tmp_path)


def test_gateway_behind_a_proxy_is_configured_so(tmp_path: Path) -> None:
    listen = configured("behind-a-proxy.toml", tmp_path).listen
    assert (listen.host, listen.port) == ("127.0.0.1", 3001)
    assert listen.public_url == "https://panels.example.org"
    assert listen.admin == ("127.0.0.1", 9001)
    assert [str(network).partition("/")[0] for network in listen.trusted_proxies] == ["127.0.0.1"]


class Issuer:
    """An identity provider: its keys as it publishes them, one of which is for encryption."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        self.tables: dict[str, Any] = {
            "keys": [self._jwk("enc", "RSA-OAEP", "e1"), self._jwk("sig", "RS256", "s1")]
        }

    def _jwk(self, use: str, algorithm: str, kid: str) -> dict[str, Any]:
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {**public, "use": use, "alg": algorithm, "kid": kid}

    def token(self, **claims: object) -> str:
        """A token as it issues them, with these claims besides."""
        now = int(time.time())
        content = {"sub": "f1c4", "iat": now, "exp": now + 300, "jti": "a1", **claims}
        return jwt.encode(content, self._key, "RS256", {"kid": "s1"})


@pytest.mark.parametrize(
    ("name", "issuer", "audience"),
    [
        ("keycloak.toml", "https://id.example.org/realms/main", ["account", "panels"]),
        ("auth0.toml", "https://example.eu.auth0.com/", ["https://panels.example.org"]),
    ],
)
def test_tokens_of_an_identity_provider_are_taken(
    tmp_path: Path, name: str, issuer: str, audience: list[str]
) -> None:
    provider = Issuer()
    (tmp_path / "jwks.json").write_text(json.dumps(provider.tables))
    auth = configured(name, tmp_path).auth
    rules = TokenRules(audience=auth.audience, issuer=auth.issuer, max_lifetime_s=auth.max_lifetime_s)
    keyring = load_keyring(auth.secret_file, auth.jwks_file, auth.algorithms)
    verifier = TokenVerifier(keyring, rules, clock=time.time)
    panels = [{"id": "team-7-*", "allow": ["read", "trigger:*"]}]
    principal = verifier.verify(provider.token(iss=issuer, aud=audience, panels=panels))
    assert principal.subject == "f1c4"
    assert principal.may_trigger("team-7-log", "add")
    assert not principal.may_trigger("other", "add")
    for wrong in ({"iss": issuer + "x", "aud": audience}, {"iss": issuer, "aud": "account"}, {"iss": issuer}):
        with pytest.raises(TokenError):
            verifier.verify(provider.token(**wrong))


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_action_gives_everybody_the_claim_that_says_what_they_may_do() -> None:
    code = (
        (EXAMPLES / "auth0-action.js").read_text()
        + """
    const claims = [];
    const api = { accessToken: { setCustomClaim: (name, value) => claims.push([name, value]) } };
    const ask = (user, identifier) => exports.onExecutePostLogin({ user, resource_server: { identifier } }, api);
    const ours = "https://panels.example.org", grants = [{ id: "a", allow: ["read"] }];
    Promise.all([ask({}, ours), ask({ app_metadata: { panels: grants } }, ours), ask({}, "https://other")])
      .then(() => console.log(JSON.stringify(claims)));
    """
    )
    ran = subprocess.run(
        ["node", "--eval", code], capture_output=True, text=True, check=True, timeout=60
    )  # fmt: skip
    assert json.loads(ran.stdout) == [["panels", []], ["panels", [{"id": "a", "allow": ["read"]}]]]


# -- backup ------------------------------------------------------------------------------------------


@pytest.fixture
def system() -> Iterator[System]:
    with running_system(processes=1) as started:
        yield started


def test_backup_is_tried_and_the_oldest_go(system: System, tmp_path: Path) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    assert system.http.post(f"/panels/{panel}/trigger/count").status_code == 200
    folder = tmp_path / "backups"
    folder.mkdir()
    for year in range(2001, 2006):
        (folder / f"panels-{year}0101T000000Z").touch()
    (folder / "not-ours").touch()
    command = [str(DEPLOY / "panels-backup"), str(folder), str(system.folder / "data"), "3"]
    gateway = Path(sys.executable).parent / "panels-gateway"
    ran = subprocess.run(
        command, env={**os.environ, "GATEWAY": str(gateway)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "nothing is wrong; " in ran.stdout
    left = sorted(path.name for path in folder.iterdir())
    assert left[:3] == ["not-ours", "panels-20040101T000000Z", "panels-20050101T000000Z"]
    assert len(left) == 4
    assert (folder / left[3]).stat().st_mode & 0o777 == 0o600


def test_backup_that_fails_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "panels-20010101T000000Z").touch()
    gateway = Path(sys.executable).parent / "panels-gateway"
    ran = subprocess.run(
        [str(DEPLOY / "panels-backup"), str(tmp_path), str(tmp_path / "nothing"), "0"],
        env={**os.environ, "GATEWAY": str(gateway)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode != 0
    assert (tmp_path / "panels-20010101T000000Z").exists()
