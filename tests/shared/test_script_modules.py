"""Which modules a handler reaches, and how they travel with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.script_modules import (
    ModuleError,
    compose,
    decompose,
    is_module_name,
    language_of,
    reached,
)

NAMES = tuple(f"{letter}.js" for letter in "abcdef")


def importing(*names: str) -> str:
    return "".join(f'import "./{name}";\n' for name in names)


@given(st.binary(), st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=30)), max_size=4))
def test_composed_handler_is_taken_apart_again(source: bytes, modules: list[tuple[str, bytes]]) -> None:
    composed = compose(source, tuple(modules))
    if modules:
        assert decompose(composed) == (source, tuple(modules))
    else:
        assert composed == source


@given(st.binary())
def test_anything_can_be_taken_apart(composed: bytes) -> None:
    for text in (composed, b"\0modules\0" + composed):
        source, modules = decompose(text)
        assert isinstance(source, bytes)
        assert all(isinstance(name, str) and isinstance(text, bytes) for name, text in modules)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)), min_size=1),
    st.sets(st.sampled_from(NAMES)),
)
def test_each_module_stands_behind_those_that_it_imports(
    imports: dict[str, set[str]], wanted: set[str]
) -> None:
    modules = {name: importing(*sorted(names)) for name, names in imports.items()}
    try:
        order = reached("javascript", importing(*sorted(wanted)), modules)
    except ModuleError:
        # only where there is a circle
        left = {name: {other for other in names if other in imports} for name, names in imports.items()}
        while free := [name for name, names in left.items() if not names]:
            left = {name: names - set(free) for name, names in left.items() if name not in free}
        assert left
        return
    assert len(set(order)) == len(order)
    for place, name in enumerate(order):
        assert {other for other in imports[name] if other in imports} <= set(order[:place])
    assert {name for name in wanted if name in imports} <= set(order)
    assert reached("javascript", "return 1", modules) == ()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('import { a } from "./a.js"', True),
        ("import a from './a.js'", True),
        ("await import(`./a.js`)", True),
        ('export * from "./a.js"', True),
        ('// see "./a.js"', True),
        ('import a from "./a.jsx"', False),
        ('import a from "a.js"', False),
        ("./a.js", False),
        ("import('./' + 'a.js')", False),
    ],
)
def test_module_is_reached_where_its_name_stands_in_quotes(source: str, found: bool) -> None:
    assert reached("javascript", source, {"a.js": ""}) == (("a.js",) if found else ())


def test_circle_is_told_as_it_goes() -> None:
    modules = {"a.js": importing("b.js"), "b.js": importing("c.js"), "c.js": importing("b.js")}
    with pytest.raises(ModuleError, match=r"got b\.js → c\.js → b\.js") as caught:
        reached("javascript", importing("a.js"), modules)
    assert caught.value.name == "b.js"


def test_javascript_imports_no_typescript() -> None:
    modules = {"a.js": importing("b.ts"), "b.ts": ""}
    with pytest.raises(ModuleError, match=r"imports no TypeScript, got \./b\.ts") as caught:
        reached("javascript", importing("a.js"), modules)
    assert caught.value.name == "a.js"
    assert reached("typescript", importing("a.js"), modules) == ("b.ts", "a.js")


@pytest.mark.parametrize("name", ["a.js", "A-1_b.test.js", "a.ts", "a" * 61 + ".js"])
def test_name_is_that_of_a_file(name: str) -> None:
    assert is_module_name(name)
    assert language_of(name) == ("typescript" if name.endswith(".ts") else "javascript")


@pytest.mark.parametrize(
    "name",
    ["", ".js", "..js", "a", "a.mjs", "a/b.js", "../a.js", "a b.js", "ä.js", "a" * 62 + ".js", "a.js\n"],
)
def test_other_names_are_none(name: str) -> None:
    assert not is_module_name(name)
