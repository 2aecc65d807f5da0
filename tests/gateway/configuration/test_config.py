"""The configuration: precedence, and the one line for each thing that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from panels_gateway.access.keys import ALGORITHMS
from panels_gateway.configuration.config import (
    EXIT_CONFIG,
    BreakerConfig,
    GatewayConfig,
    QuotasConfig,
    load,
)
from panels_gateway.configuration.options import JWT_ALGORITHMS, OPTIONS, TABLE
from panels_shared.errors import ConfigError
from panels_shared.limits import DEFAULT_MAXIMA, KIB, MIB

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def configure(
    *arguments: str, environment: dict[str, str] | None = None, directory: Path = Path("/nowhere")
) -> GatewayConfig:
    return load(["--no-auth", *arguments], environment or {}, directory=directory)


def test_config_has_defaults() -> None:
    config = configure()
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 3001)
    assert config.listen.max_frame_bytes == MIB
    assert config.workers.endpoint == "ipc:///nowhere/.panels/workers.sock"
    assert config.panels.maxima == DEFAULT_MAXIMA
    assert config.client.in_flight == 256


def test_config_prefers_flag_to_environment_to_file_to_default(tmp_path: Path) -> None:
    file = tmp_path / "panels.toml"
    file.write_text('port = 1\nmax-tools = 1\nmax_panels = 1\nhost = "file"\n')
    environment = {"PANELS_CONFIG": str(file), "PANELS_PORT": "2", "PANELS_MAX_TOOLS": "2"}
    config = configure("--port", "3", environment=environment)
    assert (config.listen.port, config.panels.tools, config.panels.count) == (3, 2, 1)
    assert (config.listen.host, config.listen.max_frame_bytes) == ("file", MIB)


def test_config_resolves_paths_of_a_file_against_its_directory(tmp_path: Path) -> None:
    (tmp_path / "panels.toml").write_text('data-dir = "data"\n')
    config = configure("--config", "panels.toml", directory=tmp_path)
    assert config.data_dir == tmp_path / "data"
    assert config.workers.endpoint == f"ipc://{tmp_path}/data/workers.sock"
    assert configure("--data-dir", "d", directory=tmp_path).data_dir == tmp_path / "d"


@pytest.mark.parametrize(
    ("text", "size"), [("1024", KIB), ("64KiB", 64 * KIB), ("2 MiB", 2 * MIB), ("4096B", 4096)]
)
def test_config_reads_sizes(text: str, size: int) -> None:
    assert configure("--max-frame-bytes", text).listen.max_frame_bytes == size


def test_config_reads_lists_flags_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "panels.toml").write_text(
        'allowed-origins = ["https://a.example", "https://b.example:8443"]\nconceal-panels '
        "= true\ntrigger-rate = 5\n"
    )
    config = configure("--config", str(tmp_path / "panels.toml"))
    assert config.listen.allowed_origins == ("https://a.example", "https://b.example:8443")
    assert config.auth.conceal_panels
    assert config.client.rate.per_s == 5.0
    overruled = configure("--config", str(tmp_path / "panels.toml"), "--conceal-panels=false")
    assert not overruled.auth.conceal_panels


def test_config_takes_a_key_in_place_of_no_auth(tmp_path: Path) -> None:
    config = load(["--jwt-secret-file", "secret", "--jwt-algorithms", "HS256, HS512"], {}, directory=tmp_path)
    assert config.auth.enabled
    assert config.auth.secret_file == tmp_path / "secret"
    assert config.auth.algorithms == ("HS256", "HS512")


#: What is given, and what the one line has to say.
BAD: list[tuple[str, list[str], str]] = [
    ("no key", [], "--jwt-secret-file FILE .* or --no-auth"),
    ("key and no-auth", ["--no-auth", "--jwt-secret-file", "s"], "take one of them away"),
    ("unknown flag", ["--no-auth", "--prot", "1"], "--prot"),
    ("abbreviated flag", ["--no-auth", "--max-pan", "1"], "--max-pan"),
    ("port", ["--no-auth", "--port", "65536"], "port: expected .*65535.*from --port"),
    ("port text", ["--no-auth", "--port", "http"], "port: expected a whole number"),
    ("port sign", ["--no-auth", "--port", "-1"], "port"),
    ("size", ["--no-auth", "--max-frame-bytes", "1MB"], "64KiB"),
    ("size range", ["--no-auth", "--max-frame-bytes", "1GiB"], "16777216"),
    ("flag", ["--no-auth=maybe"], "true or false"),
    ("number", ["--no-auth", "--trigger-rate", "nan"], "trigger-rate: expected a number"),
    (
        "algorithm",
        ["--jwt-secret-file", "s", "--jwt-algorithms", "none"],
        "jwt-algorithms: expected some of HS256",
    ),
    ("origin path", ["--no-auth", "--allowed-origins", "https://a.example/"], "allowed-origins"),
    ("origin case", ["--no-auth", "--allowed-origins", "https://A.example"], "allowed-origins"),
    ("origin null", ["--no-auth", "--allowed-origins", "null"], "allowed-origins"),
    ("public url", ["--no-auth", "--public-url", "panels.example.org"], "public-url"),
    ("log level", ["--no-auth", "--log-level", "loud"], "log-level: expected one of"),
    ("tcp without keys", ["--no-auth", "--workers-endpoint", "tcp://127.0.0.1:5000"], "CURVE keys"),
    (
        "tcp without a bus key",
        [
            "--no-auth",
            "--workers-endpoint=tcp://127.0.0.1:5",
            "--curve-secret-key-file=k",
            "--curve-worker-keys-file=k",
        ],
        "bus-key-file: expected",
    ),
    ("half a key pair", ["--no-auth", "--curve-secret-key-file", "k"], "curve-worker-keys-file"),
    (
        "every interface",
        [
            "--no-auth",
            "--workers-endpoint=tcp://0.0.0.0:1",
            "--curve-secret-key-file=k",
            "--curve-worker-keys-file=k",
        ],
        "one interface",
    ),
    ("endpoint", ["--no-auth", "--workers-endpoint", "inproc://x"], "ipc:///path or tcp://"),
    ("relative endpoint", ["--no-auth", "--workers-endpoint", "ipc://x"], "absolute path"),
    ("long endpoint", ["--no-auth", "--workers-endpoint", "ipc:///" + "x" * 120], "107 bytes"),
    ("buffers", ["--no-auth", "--send-buffer-soft-bytes=2MiB"], "send-buffer-soft-bytes"),
    (
        "claims",
        ["--no-auth", "--scope-claims", ",".join(f"c{n}" for n in range(17))],
        "at most 16 names, got 17",
    ),
    ("claim of its own", ["--no-auth", "--scope-claims", "team,clientId"], "got clientId; take it away"),
    ("long claim", ["--no-auth", "--scope-claims", "x" * 65], "1 to 64 printable characters"),
    ("config file", ["--no-auth", "--config", "/nowhere/x.toml"], "No such file"),
]


@pytest.mark.parametrize(("arguments", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_config_refuses_in_one_line(arguments: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load(arguments, {}, directory=Path("/nowhere"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max-panel = 1", "did you mean max-panels"),
        ("= 1", "expected TOML"),
        ("port = '3001", "expected TOML"),
        ("port = 3001.5", "port: expected a whole number"),
        ("port = true", "port: expected a whole number"),
        ("host = 1", "host: expected"),
        ("no-auth = 1", "true or false"),
        ("jwt-algorithms = [1]", "jwt-algorithms: expected"),
        ("[listen]\nport = 1", "expected options"),
        ("data-dir = ''", "data-dir: expected"),
    ],
)
def test_config_refuses_a_bad_file(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "panels.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        configure("--config", str(tmp_path / "panels.toml"))


def test_config_names_the_variable_that_is_wrong() -> None:
    with pytest.raises(ConfigError, match="from PANELS_MAX_PANELS"):
        configure(environment={"PANELS_MAX_PANELS": "many"})


@pytest.mark.parametrize(
    "variable",
    [
        "PANELS_JWT_AUDIENCE",
        "PANELS_JWT_ISSUER",
        "PANELS_ALLOWED_HOSTS",
        "PANELS_ADMIN_LISTEN",
        "PANELS_CONCEAL_PANELS",
        "PANELS_QUOTA_FUEL_PER_SUBJECT",
    ],
)
def test_config_refuses_an_empty_variable_that_would_switch_a_check_off(variable: str) -> None:
    """``PANELS_JWT_AUDIENCE=$UNSET`` must not mean that nobody checks the audience."""
    with pytest.raises(ConfigError, match=f"expected .*, got '' .from {variable}."):
        configure(environment={variable: ""})


def test_config_takes_other_empty_variables_for_absent() -> None:
    config = configure(
        "--port=1", environment={"PANELS_PORT": "", "PANELS_HOST": "", "PANELS_MAX_PANELS": ""}
    )
    assert (config.listen.port, config.listen.host) == (1, "127.0.0.1")
    assert configure(environment={"PANELS_PORT": ""}).listen.port == 3001


def test_config_warns_of_variables_that_are_none() -> None:
    config = configure(
        environment={
            "PANELS_MAX_PANNELS": "5",
            "PANELS_PROCESSES": "2",
            "PANELS_WORKER_NICE": "1",
            "PANELSX": "1",
        }
    )
    assert config.warnings == (
        "the variable PANELS_MAX_PANNELS is no option and is ignored; did you mean PANELS_MAX_PANELS?",
        "the variable PANELS_PROCESSES is no option and is ignored; see panels-gateway --help",
    )
    assert configure(environment={"PANELS_CONFIG": "", "PATH": "/bin"}).warnings == ()


def test_config_leaves_the_workers_table_of_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "panels.toml").write_text("port = 7\n[worker]\nprocesses = 'whatever'\n")
    assert configure("--config", str(tmp_path / "panels.toml")).listen.port == 7


def test_config_says_where_both_of_two_contradicting_values_came_from() -> None:
    with pytest.raises(ConfigError, match="from PANELS_SEND_BUFFER_SOFT_BYTES"):
        configure(environment={"PANELS_SEND_BUFFER_SOFT_BYTES": "2MiB"})


def test_config_refuses_a_data_directory_that_everybody_can_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"):
        configure("--data-dir", str(tmp_path))


def test_command_exits_78_with_one_line_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "panels_gateway"],
        capture_output=True,
        text=True,
        env={},
        timeout=30,
        check=False,
    )
    assert done.returncode == EXIT_CONFIG
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("panels-gateway: expected a key")


def test_quotas_and_breakers_are_read() -> None:
    flags = ["--no-auth", "--quota-window-s=5", "--quota-fuel-per-subject=7", "--quota-ms-per-tool=8"]
    config = load([*flags, "--breaker-failures=3"], {}, directory=Path("/nowhere"))
    assert config.quotas == QuotasConfig(
        window_s=5.0, subject_fuel=7, subject_ms=0, panel_fuel=0, panel_ms=0, tool_fuel=0, tool_ms=8
    )
    assert config.breakers == BreakerConfig(failures=3, backoff_s=1.0, max_backoff_s=60.0)


def test_breaker_refuses_a_back_off_above_its_maximum() -> None:
    flags = ["--no-auth", "--breaker-backoff-s=5", "--breaker-max-backoff-s=4"]
    with pytest.raises(
        ConfigError, match="breaker-backoff-s: expected at most breaker-max-backoff-s, 4, got 5"
    ):
        load(flags, {}, directory=Path("/nowhere"))


def test_options_know_the_algorithms_that_keys_know() -> None:
    assert JWT_ALGORITHMS == ALGORITHMS


def test_options_defaults_are_within_their_own_bounds(tmp_path: Path) -> None:
    for option in OPTIONS:
        if option.default is not None:
            raw = option.default if not isinstance(option.default, Path) else str(option.default)
            option.parse(raw, source="default", base=tmp_path)


def test_document_holds_the_reference() -> None:
    """After a change of options: python -m panels_gateway.configuration.options > the
    part between the marks.
    """
    found = re.search(r"<!-- options -->\n(.*)<!-- end of options -->", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    assert found[1].strip() == TABLE.reference().strip()


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("panels.example.org", False),
    ],
)
def test_config_tells_addresses_that_others_reach(host: str, is_local: bool) -> None:
    assert configure(f"--host={host}").listen.is_local is is_local


def test_config_takes_hosts_as_they_are_compared() -> None:
    assert configure("--allowed-hosts=panels.example.org,[::1]").listen.allowed_hosts == (
        "panels.example.org",
        "[::1]",
    )
    for wrong in ("https://panels.example.org", "panels.example.org:80", "A.example"):
        with pytest.raises(ConfigError, match="allowed-hosts"):
            configure(f"--allowed-hosts={wrong}")


def test_config_takes_networks_of_proxies() -> None:
    assert configure().listen.trusted_proxies == ()
    config = configure("--trusted-proxies=10.0.0.0/8,::1", "--upgrade-rate=2", "--auth-failure-rate=0.01")
    assert config.listen.trusted_proxies == ("10.0.0.0/8", "::1")
    assert (config.listen.upgrade_rate.per_s, config.listen.upgrade_rate.burst) == (2.0, 20)
    assert config.listen.auth_failure_rate.burst == 1
    for wrong in ("proxy.example", "10.0.0.1/8", "10.0.0.0/33"):
        with pytest.raises(ConfigError, match="trusted-proxies"):
            configure(f"--trusted-proxies={wrong}")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("127.0.0.1:9001", ("127.0.0.1", 9001)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65_535)),
    ],
)
def test_config_takes_an_address_for_administrators(given: str, expected: tuple[str, int]) -> None:
    assert configure().listen.admin is None
    assert configure(f"--admin-listen={given}").listen.admin == expected


@pytest.mark.parametrize("given", ["9001", ":9001", "h:", "h:x", "h:65536", "h:²"])
def test_config_refuses_another_address_for_administrators(given: str) -> None:
    with pytest.raises(ConfigError, match="admin-listen: expected an address and a port"):
        configure(f"--admin-listen={given}")


def test_config_takes_names_of_claims_once() -> None:
    assert configure().auth.scope_claims == ()
    assert configure("--scope-claims=team, roles,team").auth.scope_claims == ("team", "roles")
