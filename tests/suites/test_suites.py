"""The runners of other people's suites, on small suites of the same form."""

from __future__ import annotations

import asyncio
from pathlib import Path

import jwt
import pytest
import websockets
from jwt.utils import base64url_decode

from tests.suites import autobahn, echo, json_parsing, jws, wasm_spec
from tests.suites.verdicts import DOCUMENT, Verdicts, write

# -- verdicts ----------------------------------------------------------------------------------------


def test_difference_fails_unless_a_reason_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = Verdicts("s", {"odd-*": "on purpose"})
    verdicts.add("even", met=True)
    verdicts.add("odd-1", met=False)
    assert verdicts.conclude(document=False) == 0
    verdicts.add("other", met=False, got="something else")
    assert verdicts.conclude(document=False) == 1
    assert "differs: other: something else" in capsys.readouterr().out
    assert verdicts.total == 3


def test_reason_that_explains_nothing_fails_a_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = Verdicts("s", {"odd-*": "on purpose"})
    verdicts.add("even", met=True)
    assert verdicts.conclude(document=False, whole=False) == 0
    assert verdicts.conclude(document=False) == 1
    assert "odd-*" in capsys.readouterr().out
    assert Verdicts("s", {}).conclude(document=False) == 1, "a suite without tests shows nothing"


def test_result_goes_between_the_marks(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text("a\n<!-- s -->\nold\n<!-- end of s -->\nb\n")
    write("s", "new", path)
    write("s", "newer \\1", path)
    assert path.read_text() == "a\n<!-- s -->\n\nnewer \\1\n\n<!-- end of s -->\nb\n"
    with pytest.raises(ValueError, match="other"):
        write("other", "new", path)


@pytest.mark.parametrize("suite", ["autobahn", "json", "jws", "wasm"])
def test_document_has_a_result_of_each_suite(suite: str) -> None:
    text = DOCUMENT.read_text().partition(f"<!-- {suite} -->")[2].partition(f"<!-- end of {suite} -->")[0]
    assert "| differs without a reason | 0 |" in text


# -- runners -----------------------------------------------------------------------------------------


def test_texts_are_judged_by_the_first_letter_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "test_parsing"
    folder.mkdir()
    texts = {"y_a": b"[1]", "n_a": b"[1", "i_a": b"[1e999]", "i_b": b"[1.0]"}
    for name, text in texts.items():
        (folder / f"{name}.json").write_bytes(text)
    assert json_parsing.main([str(tmp_path)]) == 0
    (folder / "n_b.json").write_bytes(b"[]")
    assert json_parsing.judge(folder).unexplained == ["n_b.json: accepted"]
    assert json_parsing.main([str(tmp_path / "elsewhere")]) == 2


def test_signatures_are_judged_under_their_keys(tmp_path: Path) -> None:
    secret = "s" * 43
    key = {"kty": "oct", "alg": "HS256", "k": secret}
    raw = base64url_decode(secret)
    good = jwt.encode({"a": 1}, raw, algorithm="HS256")
    tests = [
        {"tcId": 1, "comment": "good", "jws": good, "result": "valid"},
        {"tcId": 2, "comment": "bad", "jws": good[:-4] + "AAAA", "result": "invalid"},
        {"tcId": 3, "comment": "object", "jws": {"payload": "x"}, "result": "invalid"},
    ]
    vectors = {"testGroups": [{"comment": "hs", "private": key, "tests": tests}]}
    assert jws.judge(vectors).unexplained == []
    tests[1]["result"] = "valid"
    assert jws.judge(vectors).unexplained == ["hs-bad-2: refused"]


WAST = """
(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
        (func (export "nan") (result f64) (f64.div (f64.const 0) (f64.const 0))))
(assert_return (invoke "add" (i32.const 1) (i32.const -2)) (i32.const -1))
(assert_return (invoke "nan") (f64.const nan:canonical))
(assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer divide by zero")
(assert_invalid (module (func (result i32))) "type mismatch")
(module (func (export "v") (result v128) (v128.const i32x4 0 0 0 0)))
(assert_return (invoke "v") (v128.const i32x4 0 0 0 0))
"""


def test_commands_of_a_script_are_judged_in_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "s.wast"
    path.write_text(WAST)
    found = wasm_spec.run_here(path)
    assert found["differences"] == []
    assert (found["counts"]["assert_return"], found["counts"]["assert_trap"]) == (2, 1)
    assert found["counts"]["assert_invalid"] == 1
    assert found["counts"]["not run: needs simd"] == 1

    path.write_text(WAST.replace("(i32.const -1))", "(i32.const 7))").replace("by zero", "by one"))
    assert len(wasm_spec.run_here(path)["differences"]) == 2


def test_cases_are_judged_by_behaviour_and_close() -> None:
    index = {
        "1.1.1": {"behavior": "OK", "behaviorClose": "OK"},
        "7.1.6": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"},
        "6.4.1": {"behavior": "NON-STRICT", "behaviorClose": "OK"},
        "2.1": {"behavior": "OK", "behaviorClose": "WRONG CODE"},
    }
    verdicts = autobahn.judge(index)
    assert verdicts.met == {"passed": 1, "informational": 1}
    assert verdicts.unexplained == ["2.1: OK, close WRONG CODE"]


def test_echo_sends_everything_back() -> None:
    async def converse(port: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}", max_size=None) as client:
            for message in ("", "é", "x" * 70_000, b"", b"\x00\xff", b"x" * 70_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(iter(["in ", "three ", "parts"]))
            assert await client.recv() == "in three parts"

    with echo.serving() as port:
        asyncio.run(asyncio.wait_for(converse(port), 30))


def test_suite_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert autobahn.main(["--wstest", "/nonexistent/wstest"]) == 2
    assert "--wstest" in capsys.readouterr().err
    assert wasm_spec.main(["/nonexistent"]) == 2
    assert jws.main(["/nonexistent"]) == 2
