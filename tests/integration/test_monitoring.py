"""What deploy/ gives to Prometheus and Grafana, against a scrape of a running gateway."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from panels_gateway.observe.catalog import OWN
from tests.integration.guests import counter
from tests.support.system import System, eventually, running_system

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "panels.json"
_NAME = re.compile(r"\b((?:panels|process)_[a-z_]+[a-z])(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z]+)(=~|=)"([^"]*)"')
_ADMIN = re.compile(r"serving /metrics and /health at (\S+) port (\d+)")
#: Labels that Prometheus adds.
_SCRAPE = {"job", "instance"}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The text of /metrics for administrators of a gateway with all that there can be, after some use."""
    extensions = tmp_path_factory.mktemp("extensions") / "extensions.toml"
    extensions.write_text("")
    options = ["--admin-listen", "127.0.0.1:0", "--extensions", str(extensions), "--stage-sampling", "1"]
    with running_system(processes=1, gateway=options) as system:
        yield _used(system)


def _used(system: System) -> str:
    found = _ADMIN.search(system.the_gateway().text)
    assert found is not None
    with system.connect(system.make_panel(counter())) as client:
        assert client.call("count") == 1
    assert httpx.get(f"{system.url}/panels/none/ws", trust_env=False).status_code >= 400
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    httpx.get(f"{system.url}/panels/none/ws", headers={**upgrade, **key}, trust_env=False)

    def look() -> str:
        text = httpx.get(f"http://{found[1]}:{found[2]}/metrics", trust_env=False).text
        there = "panels_upgrades_rejected_total{" in text and "panels_pool_processes 1\n" in text
        return text if there else ""

    return eventually(look, what="metrics that show the pool and the refused upgrade")


def _expressions() -> Iterator[str]:
    """Every PromQL expression of the rules and of the dashboard."""
    rules = RULES.read_text()
    for inline, folded in re.findall(r"^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.*)$)", rules, re.MULTILINE):
        yield inline or folded
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_every_metric_and_label_that_is_named_is_there(scraped: str) -> None:
    samples: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    named: set[str] = set()
    for expression in _expressions():
        found = _NAME.findall(expression)
        assert found or "up{" in expression, f"no metric in {expression}"
        for name, matchers in found:
            assert name in samples, f"{name}, in {expression}"
            named.add(name)
            for label, operator, value in _MATCHER.findall(matchers):
                if label in _SCRAPE:
                    continue
                values = {labels.get(label) for labels in samples[name]}
                wanted = set(value.split("|")) if operator == "=~" else {value}
                assert wanted <= values, f"{name}: {label} is one of {values}, in {expression}"
    assert len(named) > 40


def test_scrape_shows_every_metric_of_the_catalog_with_its_help(scraped: str) -> None:
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", scraped, re.MULTILINE))
    for family in OWN:
        assert helps.get(family.name) == family.help, family.name
    assert all(helps.values())


def test_whole_time_of_a_trigger_is_counted(scraped: str) -> None:
    assert 'panels_trigger_seconds_count{outcome="completed"} 1' in scraped.splitlines()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_promtool_has_nothing_to_say(scraped: str) -> None:
    config = ["check", "config", "--syntax-only", str(RULES.with_name("prometheus.yml"))]
    for arguments, text in (
        (["check", "metrics"], scraped),
        (["check", "rules", str(RULES)], ""),
        (config, ""),
    ):
        run = subprocess.run(
            ["promtool", *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
        )
        assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
