"""The example applications in a real browser: two people on narrow and wide windows, and a gateway that is
killed meanwhile. Screenshots lie in build/applications, for people to look at.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest

from panels_cli import folder_files
from tests.integration.guests import ROOT
from tests.support.browser import Browser, Tab, running_browser
from tests.support.system import System, eventually, running_system

APPLICATIONS: Final = ROOT / "examples" / "applications"
SCREENSHOTS: Final = ROOT / "build" / "applications"
WIDTHS: Final = (360, 1280)
#: What the agent may trigger.
TOOLS: Final = ("plan", "tick", "note")

pytestmark = pytest.mark.timeout(300)


def _demo() -> Any:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with _demo().served_pages() as origin:
        yield origin


@pytest.fixture(scope="module")
def system(pages: str) -> Iterator[System]:
    with running_system(gateway=("--allowed-origins", pages)) as started:
        for file in sorted(APPLICATIONS.glob("*/panel.toml")):
            answer = started.http.post("/panels", content=folder_files.load(file.parent).made)
            assert answer.status_code == 201, answer.text
        yield started


class People:
    """Opens pages of one application for people with names, and looks at all of them at the end."""

    def __init__(self, browser: Browser, system: System, origin: str, name: str) -> None:
        self._browser, self._system, self._origin, self._name = browser, system, origin, name
        self._tabs: dict[str, Tab] = {}

    def open(self, who: str, width: int, **options: Any) -> Tab:
        """The page, once it is live."""
        gateway = self._system.url.replace("http", "ws", 1)
        token = self._system.issuer.mint(who, **options)
        url = f"{self._origin}/applications/{self._name}/#gateway={gateway}&token={token}"
        tab = self._tabs[who] = self._browser.open(url, width=width)
        live(tab)
        assert token not in tab.evaluate("location.href")
        return tab

    def look(self) -> None:
        """Takes a screenshot of each page at each width; none may be wider than its window."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for who, tab in self._tabs.items():
            for width in WIDTHS:
                tab.resize(width, 800)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, (who, width)
                tab.screenshot(SCREENSHOTS / f"{self._name}-{who}-{width}.png")
            # while the gateway was away, connecting to it failed; nothing else may have gone wrong
            assert [text for text in tab.problems if "ERR_CONNECTION_REFUSED" not in text] == []


@pytest.fixture
def people(browser: Browser, system: System, pages: str, request: pytest.FixtureRequest) -> People:
    return People(browser, system, pages, request.param)


def application(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("people", [name], indirect=True)


def live(tab: Tab) -> None:
    tab.wait("document.querySelector('#status').dataset.status === 'live'")


def says(tab: Tab, text: str) -> None:
    tab.wait(f"document.querySelector('main').innerText.includes({json.dumps(text)})")


def click(tab: Tab, label: str) -> None:
    """A button by its text or its label."""
    find = (
        "[...document.querySelectorAll('button')]"
        f".find((b) => [b.textContent, b.ariaLabel].includes({json.dumps(label)}))"
    )
    tab.wait(f"!!{find} && !{find}.disabled")
    tab.evaluate(f"{find}.click()")


@application("kanban")
def test_kanban_moves_survive_the_end_of_the_gateway(people: People, system: System) -> None:
    ada, bob = people.open("ada", 360), people.open("bob", 1280)
    ada.type("input[placeholder='New card in Next']", "Write the tests")
    says(bob, "Write the tests")
    click(bob, "Move right: Write the tests")
    column = "[...document.querySelectorAll('section')].find((s) => s.querySelector('h2').innerText === %r)"
    says_in = column + ".innerText.includes('Write the tests')"
    ada.wait(says_in % "Doing")
    system.the_gateway().kill()
    # without a gateway the move is shown all the same, and sent once there is one
    click(ada, "Move right: Write the tests")
    ada.wait(says_in % "Done")
    ada.wait("document.querySelector('#status').dataset.status === 'reconnecting'")
    system.start_gateway()
    live(ada)
    live(bob)
    bob.wait(says_in % "Done")
    eventually(
        lambda: (
            [
                card["column"]
                for card in system.state("kanban").values()
                if isinstance(card, dict) and card["title"] == "Write the tests"
            ]
            == ["done"]
        ),
        what="the move to be committed",
    )
    # the button that was pressed by the keyboard keeps the focus, though its card was drawn anew
    bob.evaluate("document.querySelector('[data-focus$=left]:not(:disabled)').focus()")
    focused = bob.evaluate("document.activeElement.ariaLabel")
    ada.type("input[placeholder='New card in Next']", "Another card")
    says(bob, "Another card")
    assert bob.evaluate("document.activeElement.ariaLabel") == focused
    click(bob, "Remove: Another card")
    ada.wait("!document.querySelector('main').innerText.includes('Another card')")
    people.look()


@application("poll")
def test_poll_counts_one_vote_a_person(people: People, system: System) -> None:
    ada, bob = people.open("ada", 360), people.open("bob", 1280)
    option = "[...document.querySelectorAll('.option')].find((b) => b.innerText.includes('%s'))"
    ada.wait(f"!!{option % 'Tea'}")
    ada.evaluate(f"{option % 'Tea'}.click()")
    ada.evaluate(f"{option % 'Tea'}.click()")
    bob.wait(f"{option % 'Tea'}.innerText.includes('1 ·')")
    bob.evaluate(f"{option % 'Water'}.click()")
    ada.wait(f"{option % 'Water'}.innerText.includes('50 %')")
    bob.evaluate(f"{option % 'Coffee'}.click()")
    says(ada, "2 votes")
    ada.wait(f"{option % 'Water'}.innerText.includes('0 ·')")
    assert system.state("live-poll")["counts"] == [1, 1, 0]
    click(ada, "Close the poll")
    bob.wait(f"{option % 'Tea'}.disabled")
    refused = system.http.post("/panels/live-poll/trigger/vote", json={"args": {"option": 0}})
    assert "the poll is closed" in refused.text
    people.look()


@application("whiteboard")
def test_whiteboard_shows_strokes_and_cursors_of_others(people: People, system: System) -> None:
    ada, bob = people.open("ada", 360), people.open("bob", 1280)
    box = "(({ left, top, width, height }) => ({ left, top, width, height }))(document.querySelector('canvas').getBoundingClientRect())"
    place = ada.evaluate(box)

    def at(x: float, y: float) -> tuple[float, float]:
        return place["left"] + x * place["width"], place["top"] + y * place["height"]

    ada.mouse(
        ("mouseMoved", *at(0.2, 0.2)),
        ("mousePressed", *at(0.2, 0.2)),
        ("mouseMoved", *at(0.5, 0.6)),
        ("mouseMoved", *at(0.8, 0.3)),
        ("mouseReleased", *at(0.8, 0.3)),
    )
    says(bob, "1 stroke")
    stroke = system.state("whiteboard")["stroke:1"]
    assert stroke["by"] == "ada"
    assert len(stroke["points"]) >= 6
    # it is painted where it was drawn, on the other screen too
    painted = (
        "(() => { const c = document.querySelector('canvas'), w = c.width, h = c.height;"
        " const d = c.getContext('2d').getImageData(w * .2 - 4, h * .2 - 4, 9, 9).data;"
        " return d.some((value) => value > 0); })()"
    )
    assert bob.wait(painted)
    for step in range(40):  # a cursor is told at most every 80 ms, and forgotten after 3 s
        ada.mouse(("mouseMoved", *at(0.3 + step / 100, 0.5)))
        if "with ada" in bob.evaluate("document.querySelector('main').innerText"):
            break
    else:
        pytest.fail("ada's cursor was not seen")
    click(bob, "Undo mine")
    bob.wait("document.querySelector('#alert').innerText === 'there is no stroke of yours'")
    people.look()
    click(bob, "Clear")
    says(ada, "0 strokes")


@application("chat")
def test_chat_holds_a_message_back_until_a_moderator_answers(people: People, system: System) -> None:
    panel = "moderated-chat"
    ada = people.open("ada", 360, grants=[(panel, ["read", "trigger:say"])])
    ada.type("form input", "hello there")
    ada.wait("document.querySelector('#messages').innerText.includes('hello there')")
    ada.type("form input", "oh heck")
    says(ada, "waits for a moderator")
    ada.wait("document.querySelectorAll('.question').length === 1")
    # whoever comes later is asked as well
    bob = people.open("bob", 1280)
    bob.wait("document.querySelectorAll('.question').length === 1")
    ada.wait("document.querySelector('#here').innerText === 'Here: ada, bob'")
    people.look()
    click(ada, "Let it through")
    ada.wait("document.querySelector('#alert').innerText !== ''")
    assert "message:2" not in system.state(panel)
    click(bob, "Let it through")
    ada.wait("document.querySelector('#messages').innerText.includes('oh heck')")
    assert system.state(panel)["message:2"]["approved"] is True
    ada.type("form input", "darn it")
    bob.wait("document.querySelectorAll('.question').length === 1")
    click(bob, "Refuse")
    ada.wait("document.querySelector('#alert').innerText === 'a moderator has refused the message'")
    assert ada.evaluate("document.querySelector('form input').value") == "darn it"
    assert "message:3" not in system.state(panel)


@application("scratchpad")
def test_agent_works_beside_people_and_drops_a_task_that_is_replaced(people: People, system: System) -> None:
    ada = people.open("ada", 360)
    agent = [sys.executable, "-u", str(APPLICATIONS / "scratchpad" / "agent.py"), system.url]
    token = system.issuer.mint("agent", grants=[("scratchpad", ["read", *(f"trigger:{t}" for t in TOOLS)])])
    with subprocess.Popen(
        agent, stdout=subprocess.PIPE, text=True, env={**os.environ, "PANELS_TOKEN": token}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the agent is there\n"
        ada.type("form input", "wash, dry and fold")
        says(ada, "wash, dry and fold – done")
        says(ada, "I have done this: fold")
        assert [step["isDone"] for step in system.state("scratchpad")["steps"]] == [True] * 3
        ada.type("form input", "a, b, c, d, e, f, g")
        says(ada, "I have done this: a")
        ada.type("form input", "something else")
        says(ada, "something else – done")
        assert [step["text"] for step in system.state("scratchpad")["steps"]] == ["something else"]
        people.look()
        process.terminate()
    eventually(lambda: process.poll() is not None, what="the agent to end")


def test_index_leads_to_every_application(browser: Browser, pages: str, system: System) -> None:
    gateway = system.url.replace("http", "ws", 1)
    fragment = f"#gateway={gateway}&token={system.issuer.mint('ada')}"
    tab = browser.open(f"{pages}/applications/{fragment}", width=360)
    links = tab.evaluate("[...document.querySelectorAll('main a')].map((a) => a.href)")
    assert len(links) == len(list(APPLICATIONS.glob("*/panel.toml")))
    for link in links:
        assert link.endswith(fragment)
        application = browser.open(link, width=360)
        live(application)
        assert application.problems == []
    assert tab.problems == []
