"""examples/browser.html in a real browser: offline, with a bad token, narrow, by keyboard, by ear."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integration.guests import ROOT
from tests.integration.test_applications import _demo
from tests.support.browser import Browser, Tab, running_browser
from tests.support.system import System, running_system

PANELS: Final = ("counter", "todo", "chat", "approval", "hostile")
NARROW: Final = 360

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with _demo().served_pages() as served:
        yield served


@pytest.fixture(scope="module")
def system(origin: str) -> Iterator[System]:
    with running_system(gateway=("--allowed-origins", origin)) as started:
        for name in PANELS:
            content = (ROOT / "examples" / "panels" / f"{name}.json").read_bytes()
            answer = started.http.post("/panels", content=content)
            assert answer.status_code == 201, answer.text
        yield started


class Page:
    """The page of one person, who uses one panel."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.tab.evaluate(f"document.querySelector('{selector}').textContent"))

    def wait_for(self, selector: str, text: str) -> None:
        """Returns once an element shows the text."""
        self.tab.wait(f"document.querySelector('{selector}')?.textContent.includes('{text}')")

    def enter(self, text: str) -> None:
        """Types into the panel's field and presses Enter."""
        self.tab.type("#view form input", text)

    def value(self) -> str:
        """What is in the panel's field."""
        return str(self.tab.evaluate("document.querySelector('#view form input').value"))

    def in_sight(self, selector: str) -> bool:
        """Whether the whole element is within the window."""
        return bool(
            self.tab.evaluate(
                f"(({{ top, bottom, left, right, height }}) => height > 0 && top >= 0 && left >= 0 && "
                f"bottom <= innerHeight && right <= innerWidth)"
                f"(document.querySelector('{selector}').getBoundingClientRect())"
            )
        )


def opened(
    browser: Browser, origin: str, system: System, panel: str, *, width: int = 1280, token: str | None = None
) -> Page:
    """The page as the link of scripts/demo opens it."""
    shown = system.token() if token is None else token
    url = f"{origin}/#port={system.port}&token={shown}&panel={panel}"
    return Page(browser.open(url, width=width, height=640))


def connected(page: Page) -> Page:
    page.wait_for("#status", "connected, seq")
    return page


def test_text_that_is_typed_while_offline_is_shown_and_sent_when_there_is_a_connection(
    browser: Browser, origin: str, system: System
) -> None:
    page = connected(opened(browser, origin, system, "todo"))
    system.close_http()
    system.the_gateway().kill()
    page.wait_for("#status", "trying again")
    page.enter("milk")
    page.wait_for("#waiting", "milk")
    page.wait_for("#said", "is sent when there is one again")
    assert page.value() == ""
    system.start_gateway()
    connected(page)
    page.wait_for("#view ul", "milk")
    page.tab.wait("document.querySelector('#waiting').children.length === 0")
    assert [todo["text"] for todo in system.state("todo")["todos"]].count("milk") == 1


def test_text_that_a_handler_refuses_comes_back_into_the_field(
    browser: Browser, origin: str, system: System
) -> None:
    page = connected(opened(browser, origin, system, "chat"))
    long = "x" * 501
    page.enter(long)
    page.wait_for("#notice", "expected a text of 1 to 500 characters")
    assert page.value() == long


def test_token_that_is_refused_stops_the_page_and_keeps_what_is_typed(
    browser: Browser, origin: str, system: System
) -> None:
    page = opened(browser, origin, system, "todo", width=NARROW, token="nonsense")
    page.wait_for("#status", "stopped: the token is refused")
    page.wait_for("#notice", "with the link that scripts/demo prints")
    assert page.in_sight("#notice")
    page.enter("kept")
    page.wait_for("#notice", "Not sent")
    assert page.value() == "kept"


def test_page_of_an_origin_that_is_not_allowed_says_what_may_be_the_matter(
    browser: Browser, origin: str
) -> None:
    with running_system(processes=0) as closed:
        page = opened(browser, origin, closed, "todo")
        page.wait_for("#notice", "--allowed-origins")
        assert origin in page.text("#notice")


def test_error_is_in_sight_on_a_narrow_window_wherever_somebody_has_scrolled(
    browser: Browser, origin: str, system: System
) -> None:
    page = connected(opened(browser, origin, system, "hostile", width=NARROW))
    page.tab.evaluate(
        "[...document.querySelectorAll('#view button')].find((b) => b.textContent === 'reach').click()"
    )
    page.wait_for("#notice", "reach failed")
    assert page.in_sight("#notice")
    page.tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.tab.evaluate("scrollY > 0"), "expected a page that is longer than the window"
    assert page.in_sight("#notice")
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= NARROW
    page.tab.evaluate("document.querySelector('#notice button').click()")
    assert page.text("#notice") == ""


def test_focus_stays_where_it_was_when_the_keyboard_toggles_an_entry(
    browser: Browser, origin: str, system: System
) -> None:
    page = connected(opened(browser, origin, system, "todo"))
    for text in ("first", "second", "third"):
        page.enter(text)
        page.wait_for("#view ul", text)
    box = "document.querySelector('#view [aria-label=second]')"
    page.tab.evaluate(f"{box}.focus()")
    page.tab.press(" ")
    page.tab.wait(f"{box}.closest('li').className === 'done'")
    assert page.tab.evaluate(f"document.activeElement === {box}")
    # and when somebody else changes the list around it
    system.http.post("/panels/todo/trigger/add", json={"args": {"text": "fourth"}})
    page.wait_for("#view ul", "fourth")
    assert page.tab.evaluate(f"document.activeElement === {box}")
    # it goes with the entry, and the focus moves on
    system.http.post("/panels/todo/trigger/tidy")
    page.tab.wait(f"{box} === null")
    assert page.tab.evaluate("document.activeElement.matches('#view input, #view button')")


def test_changes_are_announced_once(browser: Browser, origin: str, system: System) -> None:
    page = connected(opened(browser, origin, system, "chat"))
    page.wait_for("#said", "connected")
    roles = "['#notice', '#said', '#view ul'].map((at) => document.querySelector(at).role)"
    assert page.tab.evaluate(roles) == ["alert", "status", "log"]
    page.enter("hello")
    page.wait_for("#view ul", "hello")
    page.tab.evaluate(
        "window.heard = []; new MutationObserver((changes) => changes.forEach(({ addedNodes, removedNodes }) => "
        "heard.push([addedNodes.length, removedNodes.length]))).observe(document.querySelector('#view ul'), "
        "{ childList: true })"
    )
    page.enter("again")
    page.wait_for("#view ul", "again")
    assert page.tab.evaluate("heard") == [[1, 0]]


def test_every_control_has_a_name(browser: Browser, origin: str, system: System) -> None:
    for panel in PANELS:
        page = connected(opened(browser, origin, system, panel))
        tree: list[dict[str, Any]] = page.tab.send("Accessibility.getFullAXTree")["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if node.get("role", {}).get("value") in ("button", "textbox", "checkbox", "spinbutton")
            and not node.get("name", {}).get("value")
        ]
        assert nameless == [], panel
        assert page.tab.problems == []
