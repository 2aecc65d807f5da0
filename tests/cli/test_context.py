"""Contexts: precedence, the file's text, and whom a token is shown to."""

from __future__ import annotations

import pytest

from panels_cli import context
from panels_cli.context import Context, Contexts, choose
from panels_cli.faults import UsageError

HERE = Contexts().add("here", Context("http://here", "a.b.c")).add("there", Context("https://there"))


def test_command_line_comes_before_environment_before_context() -> None:
    environment = {"PANELS_URL": "http://env", "PANELS_TOKEN": "e.e.e"}
    assert choose(HERE, environment, url="http://flag/", token="f.f.f").context == Context(
        "http://flag", "f.f.f"
    )
    assert choose(HERE, environment).context == Context("http://env", "e.e.e")
    assert choose(HERE, {}).context == Context("http://here", "a.b.c")
    assert choose(HERE, environment, name="there").context == Context("https://there")
    assert choose(Contexts(), {}).context == Context(context.DEFAULT_URL)


def test_token_of_a_context_goes_to_no_other_url() -> None:
    assert choose(HERE, {}, url="http://elsewhere").context.token is None
    assert choose(HERE, {"PANELS_URL": "http://elsewhere"}).context.token is None
    assert choose(HERE, {}, url="http://here").context.token == "a.b.c"


def test_file_is_read_as_it_was_written() -> None:
    assert context.parse(context.written(HERE), where="f") == HERE
    assert context.parse("", where="f") == Contexts()
    assert HERE.use("there").remove("there").current is None


@pytest.mark.parametrize(
    "text",
    ["x", "a = 1", "contexts = 1", "[contexts.a]", "[contexts.a]\nurl = 1", '[contexts.a]\nurl = "ftp://x"',
     '[contexts."a b"]\nurl = "http://x"', 'current = "a"', '[contexts.a]\nurl = "http://x"\ntoken = "\\n"'],
)  # fmt: skip
def test_file_that_is_not_right_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^f: "):
        context.parse(text, where="f")


@pytest.mark.parametrize("url", ["", "x", "http://", "http://a b", "http://u@h", "http://h?x", "http://h:x"])
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        context.check_url(url)


def test_bad_token_is_never_quoted() -> None:
    with pytest.raises(UsageError) as caught:
        context.check_token("secret secret")
    assert "secret" not in str(caught.value)


def test_contexts_are_bounded() -> None:
    many = Contexts({f"c{n}": Context("http://h") for n in range(context.MAX_CONTEXTS)})
    with pytest.raises(UsageError, match="at most"):
        many.add("more", Context("http://h"))
