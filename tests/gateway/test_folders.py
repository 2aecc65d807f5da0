"""Panel folders that a gateway loads when it starts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from panels_gateway import folders
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_shared.errors import ConfigError
from panels_shared.messages import Refusal
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

TOML = 'id = "p"\nkind = "k"\n[initialState]\nn = 1\n[tools.t]\nhandler = "put.js"\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write(tmp_path / "p")
    return tmp_path


def write(folder: Path, toml: str = TOML, source: str = "return 1;") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "panel.toml").write_text(toml)
    (folder / "put.js").write_text(source)


async def load(gateway: Gateway, base: Path) -> None:
    task = asyncio.create_task(folders.load(folders.read(base, DefinitionLimits()), gateway.kernel))
    await gateway.settle()
    await task


async def test_panel_is_made_once_and_loading_it_again_records_nothing(base: Path) -> None:
    gateway = Gateway()
    await load(gateway, base)
    resident = await gateway.open("p")
    assert gateway.state(resident) == {"n": 1}
    await gateway.put(resident, n=5)
    seq, definition = resident.panel.seq, resident.panel.definition
    await load(gateway, base)
    resident = await gateway.open("p")
    assert resident.panel.definition is definition
    assert (resident.panel.seq, gateway.state(resident)) == (seq, {"n": 5})


async def test_changed_folder_replaces_the_definition_and_keeps_the_state(base: Path) -> None:
    gateway = Gateway()
    await load(gateway, base)
    resident = await gateway.open("p")
    await gateway.put(resident, n=5)
    write(base / "p", TOML.replace("n = 1", "n = 2"), "return 2;")
    await load(gateway, base)
    resident = await gateway.open("p")
    assert resident.panel.definition.tools[0].handler.source == b"return 2;"
    assert gateway.state(resident) == {"n": 5}


async def test_folders_are_loaded_once_a_worker_is_there(base: Path) -> None:
    gateway = Gateway(workers=False)
    task = asyncio.create_task(folders.load(folders.read(base, DefinitionLimits()), gateway.kernel))
    await gateway.settle()
    assert not task.done()
    assert gateway.kernel.making.panels == 0
    gateway.start_workers()
    while not task.done():
        await gateway.settle()
        await asyncio.sleep(0)
    assert gateway.kernel.making.panels == 1


async def test_refused_panel_is_logged_and_the_others_are_made(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway()
    write(base / "a", TOML.replace('"p"', '"a"'), "const = 1;")
    broken = dict(folders.read(base, DefinitionLimits()))[base / "a"].tools[0].handler.digest
    gateway.refusals[broken] = Refusal("syntax", "no such thing", 1, 7)
    await load(gateway, base)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "no such thing" in record.getMessage()
    assert await gateway.kernel.residents.open("a") is None
    assert await gateway.kernel.residents.open("p") is not None


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("id = ", "panel.toml:1:5: expected TOML"),
        (TOML.replace("put.js", "none.js"), "none.js: expected a file, found none"),
        (TOML + "limits = { fuel = 0 }\n", "limits"),
    ],
)
def test_folder_that_is_wrong_is_a_wrong_configuration(base: Path, toml: str, said: str) -> None:
    write(base / "p", toml)
    with pytest.raises(ConfigError, match="^panels: .*/p/?.*" + said):
        folders.read(base, DefinitionLimits())


def test_two_folders_of_one_panel_are_a_wrong_configuration(base: Path) -> None:
    write(base / "q")
    with pytest.raises(ConfigError, match="id: 'p' is the panel of"):
        folders.read(base, DefinitionLimits())


def test_missing_folder_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder at"):
        folders.read(tmp_path / "none", DefinitionLimits())
