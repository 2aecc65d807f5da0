"""What SIGHUP changes, on a gateway that is a process of its own."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from panels_gateway.app import GatewayApp
from panels_gateway.configuration.config import GatewayConfig, load
from panels_gateway.reloading import Reloader
from tests.gateway.test_main import Gateway


class Changes:
    """An application that keeps what it was told to go by."""

    def __init__(self) -> None:
        self.heard: list[GatewayConfig] = []

    def change(self, config: GatewayConfig) -> None:
        self.heard.append(config)


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in ("panels", "panels_gateway")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_reloader_takes_a_configuration_whole_or_not_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--no-auth", f"--data-dir={tmp_path}", "--host=127.0.0.1"]

    def read() -> GatewayConfig:
        return load(arguments, {}, directory=tmp_path)

    app = Changes()
    reloader = Reloader(read(), read, cast(GatewayApp, app), None)
    arguments += ["--log-level=debug", "--allowed-hosts=a.example", "--max-panels=7", "--host=::1"]
    reloader.reload()
    (config,) = app.heard
    assert config.listen.allowed_hosts == ("a.example",)
    assert config.listen.host == "127.0.0.1", "the socket stays where it is"
    assert logging.getLogger("panels").level == logging.DEBUG
    assert "changed: allowed-hosts, log-level" in caplog.text
    assert "need a restart: host, max-panels" in caplog.text

    arguments += ["--max-panels=none"]
    reloader.reload()
    assert len(app.heard) == 1
    assert "the old one stays: max-panels: expected" in caplog.text


def status_for(gateway: Gateway, host: str) -> int:
    return httpx.get(f"{gateway.url}/health", headers={"Host": host}, trust_env=False).status_code


def test_hangup_takes_what_may_change_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "panels.toml"
    file.write_text("allowed-hosts = ['one.example']\nmax-panels = 10\n")
    gateway = Gateway(tmp_path / "data", "--no-auth", f"--config={file}")
    try:
        assert status_for(gateway, "one.example") == 503  # no worker, but let in
        assert status_for(gateway, "two.example") == 403
        file.write_text("allowed-hosts = ['two.example']\nmax-panels = 11\nupgrade-rate = 7\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.await_log("configuration read again; changed: allowed-hosts, upgrade-rate\n")
        gateway.await_log("changed, and need a restart: max-panels\n")
        assert status_for(gateway, "two.example") == 503
        assert status_for(gateway, "one.example") == 403

        file.write_text("allowed-hosts = 7\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.await_log("configuration not read again, the old one stays: allowed-hosts: expected")
        assert status_for(gateway, "two.example") == 503

        quiet = "log-level = 'warning'\nupgrade-rate = 7\n"
        file.write_text(f"allowed-hosts = ['two.example']\nmax-panels = 12\n{quiet}")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.await_log("restart: max-panels\n(?s:.*)restart: max-panels\n")
        assert "changed: log-level" not in gateway.log  # it is quieter already
    finally:
        gateway.process.terminate()
        assert gateway.process.wait(20) == 0
