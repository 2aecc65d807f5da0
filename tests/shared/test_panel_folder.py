"""The mapping from a folder to a definition."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels.definition_body import DefinitionLimits, parse
from panels_shared import panel_folder as folder
from panels_shared.handlers import handler_digest
from panels_shared.panel_folder import FolderError

HEAD = 'id = "p"\nkind = "k"\n'


def reading(toml: str, **files: bytes) -> Callable[[str, int], bytes]:
    contents = {"panel.toml": toml.encode(), **{name.replace("_", "."): data for name, data in files.items()}}

    def read(name: str, maximum: int) -> bytes:
        if name not in contents:
            raise FolderError(f"{name}: expected a file, found none")
        return contents[name]

    return read


def test_definition_has_what_the_folder_says() -> None:
    toml = HEAD + (
        'title = "T"\nmetadata = { a = 1 }\ninitialState = "s.json"\n'
        '[tools.add]\nhandler = "a.js"\nlimits = { fuel = 5 }\ntrigger = { type = "mount" }\n'
        '[tools.w]\nhandler = "w.wasm"\nentry = "go"\n'
    )
    found = folder.load(reading(toml, a_js=b"return 1", w_wasm=b"\0asm", s_json=b'{"n": null}'))
    made, replaced = json.loads(found.made), json.loads(found.replaced)
    assert made.pop("initialState") == {"n": None}
    assert made == replaced
    assert made["metadata"] == {"a": 1, folder.FINGERPRINT: found.fingerprint}
    assert made["tools"] == [
        {
            "name": "add",
            "handler": {"language": "javascript", "source": "return 1"},
            "limits": {"fuel": 5},
            "trigger": {"type": "mount"},
        },
        {
            "name": "w",
            "handler": {"language": "wasm", "source": base64.b64encode(b"\0asm").decode(), "entry": "go"},
        },
    ]
    assert found.tools[0].digest == handler_digest("javascript", "", b"return 1").hex()
    assert found.tools[1].digest == handler_digest("wasm", "go", b"\0asm").hex()


def test_modules_are_files_and_change_the_handlers_that_import_them() -> None:
    toml = HEAD + 'modules = ["rules.js"]\n[tools.a]\nhandler = "a.js"\n[tools.b]\nhandler = "b.js"\n'

    def made(rules: bytes) -> folder.Folder:
        files = {"a_js": b"import './rules.js'; export default () => 1", "b_js": b"1", "rules_js": rules}
        return folder.load(reading(toml, **files))

    one, two = made(b"1"), made(b"2")
    assert json.loads(one.made)["modules"] == {"rules.js": "1"}
    assert one.fingerprint != two.fingerprint
    assert [a.digest == b.digest for a, b in zip(one.tools, two.tools, strict=True)] == [False, True]
    definition = parse(one.made, DefinitionLimits(), default_id="p")
    assert [tool.handler.digest.hex() for tool in definition.tools] == [tool.digest for tool in one.tools]


def test_fingerprint_ignores_order_and_state_and_nothing_else() -> None:
    one, two = '[tools.a]\nhandler = "a.js"\n', '[tools.b]\nhandler = "a.js"\n'
    prints = [
        folder.load(reading(HEAD + text, a_js=source)).fingerprint
        for text, source in (
            (one + two, b"1"),
            ("[initialState]\nx = 1\n" + two + one, b"1"),
            (one + two, b"2"),
            (one, b"1"),
            ('title = ""\n' + one + two, b"1"),
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("x", "panel.toml:1:2: expected TOML"),
        ("", "panel.toml: id: expected a text, got none"),
        ('id = "p"', "panel.toml: kind"),
        ('id = "a b"\nkind = "k"', "panel.toml: id: expected 1 to 128"),
        (HEAD + "colour = 1", "panel.toml: colour: expected one of"),
        (HEAD + "title = 1", "panel.toml: title"),
        (HEAD + "tools = 1", "panel.toml: tools"),
        (HEAD + "[tools.a]", "panel.toml: tools.a.handler"),
        (HEAD + '[tools.a]\nhandler = "../a.js"', "panel.toml: tools.a.handler"),
        (HEAD + '[tools.a]\nhandler = "/a.js"', "panel.toml: tools.a.handler"),
        (HEAD + '[tools.a]\nhandler = "a.py"', "panel.toml: tools.a.handler: expected a file that ends in"),
        (HEAD + '[tools.a]\nhandler = "b.js"', "b.js: expected a file, found none"),
        (HEAD + '[tools.a]\nhandler = "a.js"\nentry = "x"', "panel.toml: tools.a.entry: expected none"),
        (HEAD + '[tools.a]\nhandler = "a.wat"\nentry = 1', "panel.toml: tools.a.entry"),
        (HEAD + '[tools.a]\nhandler = "a.js"\nlimit = {}', "panel.toml: tools.a.limit"),
        (HEAD + '[tools."a b"]\nhandler = "a.js"', "panel.toml: tools.a b: expected a name"),
        (HEAD + "[initialState]\nd = 2026-01-01", "panel.toml: initialState.d: expected a value that JSON has"),
        (HEAD + "[initialState]\nd = [nan]", "panel.toml: initialState.d[0]: expected a number"),
        (HEAD + 'initialState = "x.txt"', "panel.toml: initialState"),
        (HEAD + 'initialState = "l.json"', "l.json: expected a JSON object"),
        (HEAD + 'initialState = "bad.json"', "bad.json: "),
        (HEAD + 'metadata = { panelsFolder = "x" }', "panel.toml: metadata"),
        (HEAD + "metadata = 1", "panel.toml: metadata"),
        (HEAD + '[tools.a]\nhandler = "bad.js"', "bad.js: expected UTF-8"),
        (HEAD + "modules = 1", "panel.toml: modules: expected names of files"),
        (HEAD + 'modules = ["../a.js"]', "panel.toml: modules: expected a name of 1 to 64"),
        (HEAD + 'modules = ["none.js"]', "none.js: expected a file, found none"),
        (HEAD + 'modules = ["bad.js"]', "bad.js: expected UTF-8"),
        (HEAD + 'modules = ["me.js"]\n[tools.a]\nhandler = "me.js"', "me.js: expected modules that do not"),
        (HEAD + "title = " + "[" * 65 + "]" * 65, "panel.toml: title"),
    ],
)  # fmt: skip
def test_folder_that_is_not_right_is_refused_with_file_and_field(toml: str, said: str) -> None:
    files = {"a_js": b"1", "a_wat": b"(module)", "l_json": b"[]", "bad_json": b"{", "bad_js": b"\xff"}
    files["me_js"] = b"import './me.js'"
    with pytest.raises(FolderError) as caught:
        folder.load(reading(toml, **files))
    assert str(caught.value).startswith(said)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_folder_or_a_usage_error(content: bytes) -> None:
    try:
        folder.load(lambda name, maximum: content)
    except FolderError:
        pass
