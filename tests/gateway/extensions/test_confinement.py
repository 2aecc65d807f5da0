"""What an extension that was taken over finds: each probe in a real extension process that has confined
itself.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from panels_gateway.extensions.client import ExtensionClient
from panels_gateway.extensions.config import ExtensionsConfig, HttpConfig, Secret
from panels_gateway.extensions.confinement import Confinement, python_folders, reachable
from panels_gateway.extensions.errors import ExtensionConfigError
from panels_shared import jsonvalue, landlock
from tests.gateway.extensions.builders import a_call
from tests.gateway.extensions.servers import Exchange, serving
from tests.gateway.extensions.test_client import HERE, Kernel, play, value

needs_landlock = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() < 6, reason="needs Linux with Landlock 6"
)
#: The second is EXDEV, which Landlock says of a link from where it would lose its bounds.
DENIED = ("PermissionError", "OSError")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a seal key, a token secret, and what the operator has opened."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("data", "open", "scratch"):
        (folder / name).mkdir()
    (folder / "data" / "seal.key").write_text("sealed")
    (folder / "data" / "panels.db").write_text("state")
    (folder / "jwt.secret").write_text("signs tokens")
    (folder / "token").write_text("0123456789")
    (folder / "open" / "table").write_text("readable")
    return folder


def confined(world: Path, **fields: Any) -> ExtensionsConfig:
    made = ExtensionsConfig(
        extensions=["probing:Probe"],
        entry_points=False,
        path=[HERE],
        settings={"probe": {"token": str(world / "token")}},
        confine="strict",
        readable=[str(world / "open")],
        writable=[str(world / "scratch")],
        hidden=[str(world / "data"), str(world / "jwt.secret")],
    )
    return msgspec.structs.replace(made, **fields)


def attempts(config: ExtensionsConfig, *expressions: str, method: str = "attempt") -> list[str]:
    """What each of ``expressions`` was worth in one confined process, or its error."""
    found: list[str] = []

    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        pid = client.pid
        for expression in expressions:
            arguments = jsonvalue.encode([expression])
            found.append(value(await kernel.answer(client, method, arguments, extension="probe")))
        assert client.pid == pid, "no probe took the process along"

    play(scenario, config)
    return found


@pytest.fixture(scope="module")
def canary() -> Iterator[None]:
    """Something in our own memory that a probe would find."""
    os.environ["PANELS_CANARY"] = "in the environment of the gateway"
    yield
    del os.environ["PANELS_CANARY"]


@needs_landlock
@pytest.mark.parametrize("method", ["attempt", "attempt_in_thread"])
def test_process_cannot_reach_keys_state_or_other_processes(world: Path, canary: None, method: str) -> None:
    probes = [
        f"Path('{world}/data/seal.key').read_text()",
        f"Path('{world}/data/panels.db').read_bytes()",
        f"os.listdir('{world}/data')",
        f"Path('{world}/jwt.secret').read_text()",
        f"Path('{world}/token').read_text()",
        f"os.listdir('{world}')",
        f"os.rename('{world}/data/seal.key', '{world}/scratch/seal.key')",
        f"os.link('{world}/data/seal.key', '{world}/scratch/seal.key')",
        f"os.unlink('{world}/data/panels.db')",
        f"Path('{world}/data/new').write_text('x')",
        f"Path('{world}/open/table').write_text('x')",
        f"Path('{HERE}/probing.py').write_text('x')",
        "Path('/tmp/probe').write_text('x')",
        "Path(f'/proc/{gateway}/environ').read_bytes()",
        "open(f'/proc/{gateway}/mem', 'rb')",
        "os.listdir(f'/proc/{gateway}/fd')",
        "Path('/proc/self/environ').read_bytes()",
        "Path('/etc/shadow').read_text()",
        "os.listdir('/etc/ssl/private')",
        "os.listdir('/')",
        "os.execv('/bin/true', ['true'])",
        "subprocess.run(['/bin/true'])",
        "os.kill(gateway, 0)",
        "os.kill(0, 0)",
        "syscall(101, 16, gateway, 0, 0)",  # ptrace(PTRACE_ATTACH)
        "syscall(310, gateway, 0, 0, 0, 0, 0)",  # process_vm_readv
        "syscall(434, gateway, 0)",  # pidfd_open
        "syscall(425, 8, 0)",  # io_uring_setup
        "syscall(272, 0x10000000)",  # unshare(CLONE_NEWUSER)
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "os.setuid(0)",
        "__import__('resource').prlimit(gateway, 7)",
        "os.sched_setaffinity(gateway, {0})",
    ]
    found = attempts(confined(world), *probes, method=method)
    reached = [(probe, got) for probe, got in zip(probes, found, strict=True) if got not in DENIED]
    missing = [(probe, got) for probe, got in reached if got == "FileNotFoundError"]
    assert reached == missing, "a probe got through"
    assert all("/etc/" in probe for probe, _ in missing)
    assert sorted(path.name for path in (world / "data").iterdir()) == ["panels.db", "seal.key"]
    assert not (world / "scratch" / "seal.key").exists()


@needs_landlock
@pytest.mark.parametrize("method", ["attempt", "attempt_in_thread"])
def test_process_keeps_what_python_and_the_operator_need(world: Path, method: str) -> None:
    probes = {
        f"Path('{world}/open/table').read_text()": "'readable'",
        f"Path('{world}/scratch/book').write_text('kept')": "4",
        f"Path('{world}/scratch/book').read_text()": "'kept'",
        "Path('/dev/null').write_text('x')": "1",
        "len(os.urandom(4))": "4",
        "len(Path('/dev/urandom').open('rb').read(3))": "3",
        "__import__('colorsys').rgb_to_hsv(0, 0, 0)": "(0.0, 0.0, 0)",
        "__import__('zoneinfo').ZoneInfo('Europe/Oslo').key": "'Europe/Oslo'",
        "type(__import__('ssl').create_default_context()).__name__": "'SSLContext'",
        "__import__('certifi').contents().count('BEGIN') > 50": "True",
        "socket.getaddrinfo('localhost', 80, socket.AF_INET)[0][4]": "('127.0.0.1', 80)",
        "os.kill(os.getpid(), 0)": "None",
        "[one.close() for one in socket.socketpair()]": "[None, None]",
    }
    assert dict(zip(probes, attempts(confined(world), *probes, method=method), strict=True)) == probes


@needs_landlock
def test_extension_has_read_what_it_needs_before(world: Path) -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        assert value(await kernel.answer(client, "token", extension="probe")) == "0123456789"
        assert client.confinement == "no_new_privs, dumpable, capabilities, rlimits, landlock, seccomp"

    play(scenario, confined(world))


@needs_landlock
def test_data_directory_in_a_folder_that_can_be_read_stays_closed(world: Path) -> None:
    (world / "way-in").unlink(missing_ok=True)
    (world / "way-in").symlink_to(world / "data")
    config = confined(world, readable=[str(world)], writable=[])
    assert attempts(
        config,
        f"Path('{world}/open/table').read_text()",
        f"Path('{world}/data/seal.key').read_text()",
        f"Path('{world}/way-in/seal.key').read_text()",
        f"Path('{world}/jwt.secret').read_text()",
        f"Path('{world}/token').read_text()",
    ) == ["'readable'", *["PermissionError"] * 3, "'0123456789'"]


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody else trusts, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context


@needs_landlock
def test_http_names_and_tls_work(world: Path, tmp_path: Path) -> None:
    ca_file, context = authority(tmp_path)
    (tmp_path / "secret").write_text("s3cret-s3cret")
    seen: list[str | None] = []

    async def respond(exchange: Exchange) -> None:
        seen.append(exchange.header("authorization"))
        await exchange.answer(b"hello")

    async def secured(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await Exchange(b"", b"", writer).answer(b"sealed")
        writer.close()

    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        async with serving(respond) as plain:
            server = await asyncio.start_server(secured, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            for url, body in (
                (plain.url(host="localhost"), "hello"),
                (f"https://localhost:{port}/", "sealed"),
            ):
                options = {"headers": {"authorization": "$secret:KEY"}} if body == "hello" else {}
                arguments = jsonvalue.encode([url, options])
                kernel.count += 1
                client.call(a_call(f"call-{kernel.count}", arguments, extension="http", method="get"))
                assert value(await kernel.wait_for(f"call-{kernel.count}"))["data"] == body
            server.close()

    http = HttpConfig(
        allow=["http://127.0.0.0/8:*", "https://127.0.0.0/8:*", "http://localhost:*", "https://localhost:*"],
        secrets={"KEY": Secret(origins=["http://localhost:*"], file=str(tmp_path / "secret"))},
        ca_file=str(ca_file),
    )
    play(scenario, confined(world, http=http))
    assert seen == ["s3cret-s3cret"]


def test_folder_to_write_to_with_something_hidden_in_it_is_refused(world: Path) -> None:
    config = confined(world, confine="auto", writable=[str(world)])
    with pytest.raises(ExtensionConfigError, match="expected a folder without what stays closed"):
        Confinement(config)._restrict()


# -- modes -------------------------------------------------------------------------------------------


@needs_landlock
def test_thread_from_before_is_named_and_refused_when_strict(world: Path) -> None:
    settings = {"probe": {"thread": True}}

    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        assert "missing: landlock for all threads (1 had been started before it)" in client.confinement

    play(scenario, confined(world, settings=settings, confine="auto"))
    with pytest.raises(ExtensionConfigError):
        play(scenario, confined(world, settings=settings))


def test_process_is_open_when_confinement_is_off(world: Path) -> None:
    assert attempts(
        confined(world, confine="off"),
        f"Path('{world}/data/seal.key').read_text()",
        "subprocess.run(['/bin/true']).returncode",
    ) == ["'sealed'", "0"]


def test_unix_sockets_can_be_allowed(world: Path) -> None:
    probe = "socket.socket(socket.AF_UNIX).close()"
    assert attempts(confined(world, confine="auto", local_sockets=True), probe) == ["None"]


def no_such_thing() -> None:
    raise OSError(38, "no such thing")


def test_layer_that_is_missing_is_refused_when_strict_and_named_when_auto() -> None:
    with pytest.raises(ExtensionConfigError, match="expected landlock on this system, got: no such thing"):
        Confinement(ExtensionsConfig(confine="strict"))._layer("landlock", no_such_thing)
    confinement = Confinement(ExtensionsConfig())
    confinement._layer("landlock", no_such_thing)
    confinement._layer("rlimits", lambda: None)
    assert confinement.summary() == "rlimits; missing: landlock (no such thing)"


def test_confinement_does_nothing_when_off() -> None:
    confinement = Confinement(ExtensionsConfig(confine="off"))
    confinement.apply()
    assert confinement.summary() == "nothing (confine is off)"
    assert confinement.active == []


# -- what is left ------------------------------------------------------------------------------------


def test_what_is_hidden_is_taken_out_of_folders(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    rights, listing = landlock.READ_FILE, landlock.READ_DIR
    root = str(tmp_path)
    assert list(reachable([root, f"{root}/none"], (), rights)) == [(root, rights)]
    assert sorted(reachable([root], (f"{root}/b/c",), rights)) == [
        (root, listing),
        (f"{root}/a", rights),
        (f"{root}/b", listing),
        (f"{root}/b/d", rights),
    ]
    assert list(reachable([f"{root}/b/c"], (f"{root}/b",), rights)) == []
    assert list(reachable([f"{root}/b/link"], (f"{root}/a",), rights)) == []


def test_folders_of_python_have_this_package_and_the_standard_library() -> None:
    folders = [Path(folder) for folder in python_folders()]
    for module in (asyncio, ssl, ExtensionClient):
        file = Path(sys.modules[getattr(module, "__module__", module.__name__)].__file__ or "")
        assert any(file.is_relative_to(folder) for folder in folders)
