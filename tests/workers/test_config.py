"""Options of the pool: defaults, environment, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import zmq

from panels_shared.errors import ConfigError
from panels_shared.limits import MIB
from panels_worker.__main__ import main
from panels_worker.config import TABLE, parse
from panels_worker.settings import PoolConfig
from panels_worker.status import Exit

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def parsed(*argv: str, **environ: str) -> PoolConfig:
    return parse(argv, {"HOME": "/home/x", **environ})


def test_config_has_defaults_that_work_beside_a_gateway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parsed()
    assert config.gateway == f"ipc://{tmp_path}/.panels/workers.sock"
    assert config.processes >= 1
    assert config.cache_dir == Path("/home/x/.cache/panels")
    assert config.confinement == "auto"


def test_config_finds_the_cache_where_the_user_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed(XDG_CACHE_HOME="/var/c").cache_dir == Path("/var/c/panels")
    assert parsed(HOME="").cache_dir == tmp_path / ".panels/cache"


def test_config_takes_the_command_line_before_the_environment() -> None:
    assert parsed(PANELS_WORKER_PROCESSES="3").processes == 3
    assert parsed("--processes", "4", PANELS_WORKER_PROCESSES="3").processes == 4
    assert parsed(PANELS_WORKER_PROCESSES="", PANELS_WORKER_SPIN_US="0").spin_us == 0


def test_config_runs_jobs_twice_only_when_asked() -> None:
    assert not parsed().verify_replay
    assert parsed("--verify-replay").verify_replay


def test_config_counts_processes_by_the_cpus_that_it_may_use() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    assert parsed().processes == parsed("--processes", "auto").processes == min(256, len(cpus))
    one = parsed("--cpu-affinity", f"{cpus[0]},{cpus[0]}-{cpus[0]}")
    assert (one.cpus, one.processes) == ((cpus[0],), 1)
    assert parsed("--cpu-affinity", str(cpus[0]), "--processes", "3").processes == 3


@pytest.mark.parametrize("cpus", ["9999", "3-1", "a", "1-", "-1", "0-99999", "0x1"])
def test_config_refuses_cpus_that_there_are_not(cpus: str) -> None:
    with pytest.raises(ConfigError, match="cpu-affinity: expected"):
        parsed(f"--cpu-affinity={cpus}")


def test_config_reads_sizes_with_units() -> None:
    assert parsed("--replica-bytes", "2MiB").replica_bytes == 2 * MIB
    assert parsed("--max-rss-bytes", "104857600").bounds.max_rss_bytes == 100 * MIB
    assert parsed("--data-bytes", "1GiB").data_bytes == 1024 * MIB


def test_config_reads_curve_keys(tmp_path: Path) -> None:
    server, _ = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    (tmp_path / "server").write_bytes(server + b"\n")
    (tmp_path / "secret").write_bytes(secret + b"\n")
    config = parsed(
        *("--gateway", "tcp://gateway:5555"),
        *("--curve-secret-key-file", str(tmp_path / "secret")),
        *("--curve-server-key-file", str(tmp_path / "server")),
        *("--bus-key-file", str(tmp_path / "bus")),
    )
    assert config.bus_key_file == tmp_path / "bus"
    assert config.curve is not None
    assert (config.curve.peers, config.curve.public, config.curve.secret) == (
        frozenset([server]),
        public,
        secret,
    )


def test_config_needs_a_bus_key_for_tcp(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(zmq.curve_keypair()[1])
    with pytest.raises(ConfigError, match=r"bus-key-file: expected a file .* openssl rand -hex 32"):
        parsed(
            *("--gateway", "tcp://x:1"),
            *("--curve-secret-key-file", str(tmp_path / "key")),
            *("--curve-server-key-file", str(tmp_path / "key")),
        )


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--gateway", "http://x"], "gateway: expected ipc:///path or tcp://host:port, got 'http://x'"),
        (["--gateway", "tcp://x:0"], "gateway: expected ipc"),
        (["--gateway", "tcp://*:5"], "gateway: expected ipc"),
        (["--gateway", "tcp://x:99999"], "gateway: expected ipc"),
        (["--gateway", "ipc://"], "gateway: expected a path"),
        (["--gateway", "ipc:///" + "x" * 107], "gateway: expected a path of 1 to 107 bytes"),
        (["--gateway", "tcp://x:1"], "gateway: expected CURVE keys for tcp, got none"),
        (["--curve-secret-key-file", "x"], "expected a tcp:// gateway"),
        (
            ["--processes", "0"],
            "processes: expected auto or a whole number, 1 to 256, got 0 (from --processes)",
        ),
        (["--processes", "9999"], "processes"),
        (["--processes", "-1x"], "processes"),
        (["--spin-us", "1e9"], "spin-us"),
        (
            ["--replica-bytes", "1kB"],
            "replica-bytes: expected a number of bytes like 65536 or 64KiB, 1048576 to",
        ),
        (
            ["--data-bytes", "1MiB"],
            "data-bytes: expected a number of bytes like 65536 or 64KiB, 134217728 to",
        ),
        (
            ["--confinement", "maybe"],
            "confinement: expected one of auto, strict, off, got 'maybe' (from --confinement)",
        ),
        (["--grace-s", "0"], "grace-s"),
    ],
)
def test_config_refuses_with_a_sentence(argv: list[str], sentence: str) -> None:
    # a value that begins with a dash needs the other spelling
    with pytest.raises(ConfigError) as refused:
        parsed(*(f"{name}={value}" for name, value in zip(argv[::2], argv[1::2], strict=True)))
    assert sentence in str(refused.value)


def test_config_refuses_a_log_level_from_the_environment() -> None:
    with pytest.raises(
        ConfigError, match=r"log-level: expected one of .*, got 'loud' \(from PANELS_WORKER_LOG_LEVEL\)"
    ):
        parsed(PANELS_WORKER_LOG_LEVEL="loud")


def test_config_reads_a_file_below_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('processes = 2\nmax_jobs = 10\ngrace-s = 3\ncache-dir = "cache"\nspin-us = 0\n')
    config = parsed(
        "--max-jobs",
        "30",
        PANELS_WORKER_CONFIG=str(file),
        PANELS_WORKER_MAX_JOBS="20",
        PANELS_WORKER_GRACE_S="4",
    )
    assert (config.processes, config.bounds.max_jobs, config.bounds.grace_s, config.spin_us) == (2, 30, 4, 0)
    assert config.cache_dir == tmp_path / "cache"


def test_config_leaves_the_gateways_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("max-panels = 1\n")
    assert parsed(PANELS_CONFIG=str(file)).log_level == "info"
    with pytest.raises(ConfigError, match="got 'max-panels'"):
        parsed("--config", str(file))


def test_config_warns_of_variables_that_are_none() -> None:
    config = parsed(PANELS_WORKER_PROCESES="3", PANELS_MAX_PANELS="5", PANELS_PROCESSES="9")
    assert config.processes != 9
    assert config.warnings == (
        "the variable PANELS_WORKER_PROCESES is no option and is ignored; did you mean PANELS_WORKER_PROCESSES?",
        "the variable PANELS_PROCESSES is not read; did you mean PANELS_WORKER_PROCESSES?",
    )


def test_config_leaves_what_both_programs_call_alike_to_the_gateway(tmp_path: Path) -> None:
    config = parsed(
        PANELS_LOG_LEVEL="debug", PANELS_CURVE_SECRET_KEY_FILE="/none", PANELS_BUS_KEY_FILE="/none"
    )
    assert (config.log_level, config.curve, config.bus_key_file, config.warnings) == ("info", None, None, ())


def test_config_takes_its_table_of_a_file_that_is_the_gateways_too(tmp_path: Path) -> None:
    file = tmp_path / "panels.toml"
    file.write_text("max-panels = 1\n\n[worker]\nprocesses = 2\n")
    assert parsed("--config", str(file)).processes == 2
    file.write_text("max-panels = 1\n\n[worker]\nprocesses = 0\n")
    with pytest.raises(ConfigError, match=rf"got 0 \(from {file}:4\)"):
        parsed("--config", str(file))


def test_config_warns_of_a_secret_that_everybody_can_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(zmq.curve_keypair()[1])
    (tmp_path / "key").chmod(0o644)
    config = parsed(
        *("--gateway", "tcp://x:1"),
        *("--curve-secret-key-file", str(tmp_path / "key")),
        *("--curve-server-key-file", str(tmp_path / "key")),
        *("--bus-key-file", str(tmp_path / "bus")),
    )
    (warning,) = config.warnings
    assert warning.startswith(
        "curve-secret-key-file: expected a file that only its owner can read, got mode 644"
    )


def test_main_checks_the_configuration_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--processes", "2"]) == Exit.OK
    assert capsys.readouterr().out == "the configuration is good\n"
    assert main(["check-config", "--processes", "0"]) == Exit.BOOT
    assert capsys.readouterr().err.startswith("panels-worker: processes: expected")


def test_main_says_an_unknown_flag_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--proceses", "2"]) == Exit.BOOT
    error = capsys.readouterr().err
    assert "--proceses" in error
    assert error.count("\n") == 1


def test_document_holds_the_reference_of_the_worker() -> None:
    """After a change of options: python -m panels_worker.config > the part between the marks."""
    found = re.search(
        r"<!-- worker options -->\n(.*)<!-- end of worker options -->", DOCUMENT.read_text(), re.DOTALL
    )
    assert found is not None
    assert found[1].strip() == TABLE.reference().strip()


def test_config_refuses_a_key_file_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    for path in (tmp_path / "key", tmp_path / "missing"):
        with pytest.raises(ConfigError, match="curve-secret-key-file: expected") as refused:
            parsed(
                *("--gateway", "tcp://x:1"),
                *("--curve-secret-key-file", str(path)),
                *("--curve-server-key-file", str(path)),
            )
        assert "not a key" not in str(refused.value)


def test_main_says_what_is_wrong_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--processes", "0"]) == Exit.BOOT
    assert capsys.readouterr().err.startswith("panels-worker: processes: expected")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_main_answers_questions(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([flag])
    assert end.value.code == 0
    assert "panels-worker" in capsys.readouterr().out
