"""The allow-list."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.http.policy import (
    Policy,
    parse_addresses,
    parse_rules,
    parse_url,
)


def denial(allow: Sequence[str], url: str, *answers: str) -> str | None:
    """Why ``url``, which resolves to ``answers``, is refused; None if it is not."""
    policy = Policy(parse_rules("allow", allow))
    try:
        _, target = parse_url(url)
        policy.check_host(target)
        if target.address is None:
            policy.check_addresses(target, parse_addresses(answers))
    except CallFailedError as exc:
        assert exc.code is ErrorCode.DENIED
        return exc.message
    return None


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("https://example.com", "https://example.com/x"),
        ("https://example.com", "https://EXAMPLE.com.:443/x"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*", "https://example.com"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("http://example.com:*", "http://example.com:1234"),
        ("https://xn--bcher-kva.example", "https://bücher.example"),
    ],
)
def test_name_is_allowed_by_a_pattern(rule: str, url: str) -> None:
    assert denial([rule], url, "8.8.8.8") is None


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("https://example.com", "http://example.com"),
        ("https://example.com", "https://example.com:8443"),
        ("https://example.com", "https://a.example.com"),
        ("https://example.com", "https://notexample.com"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://example.com", "https://example.com.evil.org"),
        ("https://8.0.0.0/8", "https://example.com"),
        ("https://*", "https://8.8.8.8"),
    ],
)
def test_what_no_line_allows_is_denied(rule: str, url: str) -> None:
    assert denial([rule], url, "8.8.8.8") is not None


def test_nothing_is_allowed_without_a_list() -> None:
    assert denial([], "https://example.com", "8.8.8.8") is not None


@pytest.mark.parametrize(
    ("url", "answers"),
    [
        ("https://example.com", ["8.8.8.8"]),
        ("http://example.com:8080/path", ["8.8.8.8"]),
        ("https://8.8.8.8:8443", []),
        ("https://[2606:4700::1111]", []),
        ("http://2130706433", []),
    ],
)
def test_denial_holds_the_line_that_would_allow(url: str, answers: list[str]) -> None:
    message = denial([], url, *answers)
    assert message is not None
    line = message.partition('the line "')[2].partition('"')[0]

    assert denial([line], url, *answers) is None


def test_denial_of_an_address_behind_a_name_holds_the_line_that_would_allow() -> None:
    message = denial(["https://example.com"], "https://example.com", "8.8.8.8", "10.0.0.5")
    assert message is not None
    assert '"https://10.0.0.5/32"' in message

    assert (
        denial(["https://example.com", "https://10.0.0.5/32"], "https://example.com", "8.8.8.8", "10.0.0.5")
        is None
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.1",
        "0",
        "0.0.0.0",
        "１２７.0.0.1",
        "[::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[fec0::1]",
        "[ff02::1]",
        "224.0.0.1",
        "168.63.129.16",
        "192.88.99.1",
        "169.254.169.254",
        "1.2.3.4.5",
        "%31%32%37.0.0.1",
        "exa․mple.com",
    ],
)
def test_literal_is_denied_in_every_spelling(host: str) -> None:
    assert denial(["http://*"], f"http://{host}/", "127.0.0.1") is not None


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1", "168.63.129.16"]
)
def test_name_is_denied_when_any_answer_is_special(answer: str) -> None:
    assert denial(["https://*"], "https://example.com", "8.8.8.8", answer) is not None


def test_range_does_not_open_what_stands_behind_a_translator() -> None:
    allow = ["https://*", "https://[64:ff9b::/96]"]

    assert denial(allow, "https://example.com", "64:ff9b::808:808") is None
    assert denial(allow, "https://example.com", "64:ff9b::a9fe:a9fe") is not None


def test_range_counts_for_its_scheme_and_port_alone() -> None:
    allow = ["http://*:*", "http://127.0.0.0/8:8080"]

    assert denial(allow, "http://example.com:8080", "127.0.0.1") is None
    assert denial(allow, "http://example.com:8081", "127.0.0.1") is not None


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("example.com", ErrorCode.ARGUMENTS),
        ("/path", ErrorCode.ARGUMENTS),
        ("file:///etc/passwd", ErrorCode.ARGUMENTS),
        ("gopher://example.com", ErrorCode.ARGUMENTS),
        ("https://user:word@example.com", ErrorCode.ARGUMENTS),
        ("https://", ErrorCode.ARGUMENTS),
        ("https://example.com/" + "x" * 9_000, ErrorCode.ARGUMENTS),
        ("https://exa mple.com", ErrorCode.DENIED),
    ],
)
def test_url_is_refused(url: str, code: ErrorCode) -> None:
    with pytest.raises(CallFailedError) as caught:
        parse_url(url)

    assert caught.value.code is code


def test_name_without_addresses_is_refused() -> None:
    _, target = parse_url("https://example.com")
    with pytest.raises(CallFailedError, match="no address"):
        Policy(parse_rules("allow", ["https://*"])).check_addresses(target, [])


@pytest.mark.parametrize(
    "line",
    ["example.com", "ftp://x", "https://", "https://a/b", "https://x:0", "https://x:99999",
    "https://10.0.0.1/8",
     "https://*.*", "https://a*", "https://x@y", "https://[fd00::/8", "https://1.2.3.4.5"],
)  # fmt: skip
def test_line_is_refused(line: str) -> None:
    with pytest.raises(ExtensionConfigError, match=r"^allow\[0\]: "):
        parse_rules("allow", [line])
