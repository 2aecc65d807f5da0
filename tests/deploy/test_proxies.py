"""The proxies' configuration, in front of a real gateway and between it and real clients."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.sync.client import ClientConnection, connect

from tests.integration.guests import ROOT, counter
from tests.support.system import System, eventually, running_system

NGINX: Final = shutil.which("nginx")
CADDY: Final = shutil.which("caddy")
NAME: Final = "panels.example.org"
PUBLIC: Final = f"https://{NAME}"

needs_nginx = pytest.mark.skipif(
    NGINX is None and not os.environ.get("CI_TOOLCHAIN"), reason="nginx is not installed"
)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    options = ("--public-url", PUBLIC, "--trusted-proxies", "127.0.0.1", "--auth-failure-rate", "2")
    pings = ("--ping-interval-s", "0.5", "--ping-timeout-s", "10")
    with running_system(processes=1, gateway=(*options, *pings)) as started:
        yield started


def certificate(folder: Path) -> Path:
    """A certificate for ``NAME`` that only clients of this test trust, and its key, where a proxy looks."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "fullchain.pem"


@dataclass
class Proxy:
    """A proxy at a port of this machine, with TLS."""

    port: int
    folder: Path
    trust: ssl.SSLContext

    def http(self) -> httpx.Client:
        """A client of the name that the certificate is for."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": NAME},
            verify=self.trust,
            trust_env=False,
            timeout=60,
        )

    def socket(self, path: str, *, origin: str | None = PUBLIC) -> ClientConnection:
        """A WebSocket, of a page of that name unless another origin is given."""
        return connect(
            f"wss://{NAME}{path}",
            sock=socket.create_connection(("127.0.0.1", self.port), timeout=60),
            ssl=self.trust,
            origin=None if origin is None else websockets.Origin(origin),
            compression=None,
            proxy=None,
            open_timeout=60,
        )


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def proxy(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """nginx with the configuration of deploy/, whose ports, folders and time-outs are this test's."""
    folder = tmp_path_factory.mktemp("nginx")
    chain = certificate(folder)
    port = free_port()
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for there, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server 127.0.0.1:3001", f"server 127.0.0.1:{system.port}"),
        ("/etc/ssl/panels", str(folder)),
        ("/var/log/nginx", str(folder)),
        # far less than what a silent socket has to last, and more than four pings
        ("proxy_read_timeout 60s", "proxy_read_timeout 2s"),
    ):
        assert there in text
        text = text.replace(there, here)
    (folder / "panels.conf").write_text(text)
    main = folder / "nginx.conf"
    temporary = "".join(
        f"  {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if Path("/proc/self").stat().st_uid == 0 else ""
    main.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\n{temporary}  include {folder}/panels.conf;\n}}\n"
    )
    assert NGINX is not None
    child = subprocess.Popen([NGINX, "-e", str(folder / "error.log"), "-c", str(main)])
    try:
        trust = ssl.create_default_context(cafile=str(chain))
        # requests go to an address, and the certificate is for the name
        trust.check_hostname = False

        def answers() -> bool:
            assert child.poll() is None, (folder / "error.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                return False
            return True

        eventually(answers, what="nginx to listen")
        yield Proxy(port, folder, trust)
    finally:
        child.terminate()
        child.wait(60)


def receive(client: ClientConnection, kind: str) -> dict[str, object]:
    """The next message of a type."""
    while True:
        message: dict[str, object] = json.loads(client.recv(timeout=60))
        if message["type"] == kind:
            return message


@needs_nginx
def test_page_of_the_public_address_connects_and_triggers_through_nginx(system: System, proxy: Proxy) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    with proxy.http() as http:
        described = http.get(f"/panels/{panel}", headers={"Authorization": f"Bearer {system.token()}"})
    assert described.status_code == 200
    with proxy.socket(f"/panels/{panel}/ws?token={system.token()}") as client:
        assert receive(client, "CONNECTED")["panelId"] == panel
        client.send(json.dumps({"type": "TRIGGER", "tool": "count", "requestId": "r"}))
        assert receive(client, "RESULT")["requestId"] == "r"


@needs_nginx
def test_page_of_another_origin_is_refused_through_nginx(system: System, proxy: Proxy) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    with pytest.raises(websockets.InvalidStatus) as caught:
        proxy.socket(f"/panels/{panel}/ws?token={system.token()}", origin="https://evil.example")
    assert caught.value.response.status_code == 403


@needs_nginx
def test_silent_socket_outlasts_the_time_out_of_nginx(system: System, proxy: Proxy) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    with proxy.socket(f"/panels/{panel}/ws?token={system.token()}") as client:
        receive(client, "CONNECTED")
        # nothing is said for three times what nginx waits; the gateway's pings are what keeps it open
        with pytest.raises(TimeoutError):
            client.recv(timeout=6)
        client.send(json.dumps({"type": "TRIGGER", "tool": "count", "requestId": "r"}))
        assert receive(client, "RESULT")["requestId"] == "r"


@needs_nginx
def test_event_of_a_stream_comes_through_nginx_before_the_stream_ends(system: System, proxy: Proxy) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    headers = {"Authorization": f"Bearer {system.token()}"}
    path = f"/panels/{panel}/stream?offset=now&live=sse"
    with proxy.http() as http, http.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        next(lines)
        before = time.monotonic()
        assert system.http.post(f"/panels/{panel}/trigger/count").status_code == 200
        line = next(line for line in lines if '"count"' in line)
    assert line
    assert time.monotonic() > before


@needs_nginx
def test_address_is_the_clients_and_cannot_be_forged_through_nginx(system: System, proxy: Proxy) -> None:
    """Tokens that are refused count for an address, unless it is one of this machine."""
    panel = system.make_panel(counter(), state={"count": 0})
    path, forged = f"/panels/{panel}", "203.0.113.9"
    headers = {"Authorization": "Bearer nonsense", "X-Forwarded-For": forged, "Forwarded": f"for={forged}"}
    # 127.0.0.1 is a proxy to the gateway, and 127.0.0.2 is not
    transport = httpx.HTTPTransport(verify=proxy.trust, local_address="127.0.0.2")
    with httpx.Client(base_url=f"https://127.0.0.1:{proxy.port}", transport=transport) as http:
        through = {http.get(path, headers={**headers, "Host": NAME}).status_code for _ in range(40)}
    assert through == {401}
    # what a proxy says would have been believed
    del headers["Forwarded"]
    with system.http_client(None) as direct:
        believed = {direct.get(path, headers=headers).status_code for _ in range(40)}
    assert believed == {401, 429}


@needs_nginx
def test_what_is_for_administrators_and_tokens_stay_inside(system: System, proxy: Proxy) -> None:
    token = system.token()
    with proxy.http() as http:
        hidden = {path: http.get(path).status_code for path in ("/metrics", "/health", "/health/ready")}
        http.get("/panels/none/state", params={"token": token})
    assert set(hidden.values()) == {404}
    log = ""

    def is_logged() -> bool:
        nonlocal log
        log = (proxy.folder / "panels.log").read_text()
        return "/panels/none/state" in log

    eventually(is_logged, what="the request in the log")
    assert token not in log
    assert "token=" not in log


def test_time_outs_of_nginx_are_longer_than_what_the_gateway_needs() -> None:
    from panels_gateway.configuration.options import OPTIONS
    from panels_gateway.http.streams import LONG_POLL_S

    defaults = {option.name: option.default for option in OPTIONS}
    pings = float(str(defaults["ping-interval-s"])) + float(str(defaults["ping-timeout-s"]))
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        (seconds,) = re.findall(rf"{name} (\d+)s;", text)
        assert int(seconds) > max(pings, LONG_POLL_S)
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) << 20 > int(str(defaults["max-body-bytes"]))


@pytest.mark.skipif(CADDY is None, reason="caddy is not installed")
def test_caddy_takes_its_file(tmp_path: Path) -> None:
    assert CADDY is not None
    file = ROOT / "deploy" / "Caddyfile"
    adapted = subprocess.run(
        [CADDY, "adapt", "--adapter", "caddyfile", "--config", str(file)],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert adapted.returncode == 0, adapted.stderr
    text = json.dumps(json.loads(adapted.stdout))
    assert '"flush_interval": -1' in text
    assert '"delete": ["Forwarded"]' in text
