"""What `panels doctor` finds, and the line that mends it. Pure: it judges what was fetched."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from panels_cli import gauges
from panels_cli.gauges import Look
from panels_shared import __version__

Level = Literal["ok", "warning", "wrong"]

#: Clocks that differ by more than the gateway's leeway make tokens invalid at their ends.
LEEWAY_S: Final = 5.0
SOON_S: Final = 300.0
#: So many triggers of one panel that fail within a minute are worth a look.
MANY_FAILURES: Final = 10
#: The share of all triggers that is worth a look.
MANY_FAILED: Final = 0.1
#: Above this a token's lifetime is refused by a gateway that was not told otherwise.
DEFAULT_LIFETIME_S: Final = 24 * 3_600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``mend`` is what to do, "" where nothing is to be done."""

    what: str
    level: Level
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox process of this machine, as /proc/PID/status shows it.

    ``seccomp`` 2 is a filter; ``capabilities`` is the effective set; ``uid`` the effective user.
    """

    pid: int
    seccomp: int
    no_new_privs: bool
    capabilities: int
    uid: int


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


# -- the gateway -------------------------------------------------------------------------------------


def health(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What /health says. ``report`` is its JSON."""
    status, version = report.get("status"), str(report.get("version"))
    problems = [str(problem) for problem in report.get("problems") or []]
    if status == "ready":
        yield Finding("health", "ok", f"ready, durability {report.get('durability')}")
    for problem in problems:
        yield Finding("health", "warning" if status == "ready" else "wrong", problem, _mend(problem))
    if status != "ready" and not problems:
        yield Finding("health", "wrong", f"status {status}", "look at the gateway's log")
    if version != __version__:
        yield Finding(
            "version",
            "warning",
            f"the gateway is {version}, this program {__version__}",
            "use the same version",
        )
    if report.get("durability") == "none":
        yield Finding(
            "durability", "warning", "nothing survives the gateway", "start it with --durability process"
        )


def ready(status: int, answer: object) -> Iterator[Finding]:
    """Whether a trigger works, by the status and the JSON of /health/ready; nothing where there is none."""
    if status == 200:
        yield Finding("trigger", "ok", "a trigger of the gateway's own was run")
    elif status == 503:
        reason = answer.get("reason") if isinstance(answer, Mapping) else None
        text = str(reason or "a trigger of the gateway's own was not run")
        yield Finding("trigger", "wrong", text, "look at the logs of the gateway and of the pool")


def _mend(problem: str) -> str:
    if "no worker" in problem:
        return "start one: panels-worker --gateway ENDPOINT, the gateway's --workers-endpoint"
    if "shutting down" in problem:
        return "wait for it to stop, and start it again"
    if "has said nothing" in problem:
        return "it is killed and replaced after a minute; if that comes again, look at the disk"
    if "wait to be folded" in problem:
        return "give its disk time, or look at the gateway's log"
    return "look at the gateway's log"


def workers(metrics: str) -> Finding:
    """How many sandboxes are connected, by the text of /metrics; "" where it is not shown."""
    found = re.search(r"^panels_workers(?:\{[^}]*\})? ([0-9.e+]+)$", metrics, re.MULTILINE)
    if found is None:
        return Finding("workers", "warning", "/metrics is not shown here, so nobody can count them")
    count = int(float(found[1]))
    if count == 0:
        refused = re.search(r"^panels_bus_hellos_refused_total ([1-9][0-9.e+]*)$", metrics, re.MULTILINE)
        if refused is not None:
            return Finding(
                "workers",
                "wrong",
                "no sandbox is connected, and peers that came were refused",
                "give the pool this gateway's bus key; the gateway's log says why it refused",
            )
        return Finding("workers", "wrong", "no sandbox is connected", "start a pool: panels-worker")
    return Finding("workers", "ok", f"{count} sandbox{'es' if count != 1 else ''} connected")


def handlers(now: Look) -> Iterator[Finding]:
    """What handlers come to, by the metrics: those that are suspended, and those that keep failing."""
    suspended = int(now.one("panels_circuits_open") or 0)
    if suspended:
        yield Finding(
            "circuits",
            "warning",
            f"{suspended} tool{'s are' if suspended != 1 else ' is'} suspended after failing again and again",
            "the gateway's log names panel and tool, and panels get PANEL the tool's circuit",
        )
    if "panels_panel_failures" not in now.values:
        yield _failures(now)
        return
    failing = gauges.failing(now)
    if not failing or failing[0][1] < MANY_FAILURES:
        yield Finding("handlers", "ok", "no panel's triggers failed often in the last minute")
        return
    named = ", ".join(f"{count:,.0f} of {panel}" for panel, count in failing[:3])
    first = next((panel for panel, _ in failing if panel != "(others)"), "PANEL")
    yield Finding(
        "handlers",
        "warning",
        f"triggers failed in the last minute: {named}",
        f"panels logs {first} shows why",
    )


def _failures(now: Look) -> Finding:
    """The same where no panels are named: only since the gateway started, and of all panels."""
    accepted, failed = now.total("panels_triggers_total"), now.total("panels_triggers_failed_total")
    said = f"{failed:,.0f} of {accepted:,.0f} triggers since the gateway started have failed"
    if failed < max(MANY_FAILURES, MANY_FAILED * accepted):
        return Finding("handlers", "ok", said)
    reasons = now.by("panels_triggers_failed_total", "reason")
    most = max(reasons, key=lambda reason: (reasons[reason], reason))
    return Finding(
        "handlers",
        "warning",
        f"{said}, most with {most}",
        "panels top shows whether they still do; at the URL of --admin-listen it names the panels",
    )


def confinement(sandboxes: Sequence[Sandbox]) -> Iterator[Finding]:
    """Whether the sandboxes of this machine are locked in; none is no finding but a remark."""
    if not sandboxes:
        yield Finding("confinement", "ok", "no sandbox runs on this machine, so there is nothing to look at")
        return
    for wrong, text in (
        ([s.pid for s in sandboxes if s.seccomp != 2], "without a filter of system calls (seccomp)"),
        ([s.pid for s in sandboxes if not s.no_new_privs], "without no_new_privs"),
        ([s.pid for s in sandboxes if s.capabilities], "with capabilities of the kernel"),
        ([s.pid for s in sandboxes if s.uid == 0], "as root"),
    ):
        if wrong:
            yield Finding(
                "confinement",
                "wrong",
                f"sandboxes {text}: {', '.join(map(str, wrong[:8]))}",
                "start the pool with --confinement strict, and look at its log",
            )
            return
    yield Finding(
        "confinement",
        "ok",
        f"{len(sandboxes)} here with seccomp, no_new_privs, no capabilities, and not as root",
    )


def sandbox_of(pid: int, status: str) -> Sandbox | None:
    """A sandbox from the text of its /proc/PID/status; None where that lacks something."""
    fields = dict(re.findall(r"^(\w+):\t(\S*)", status, re.MULTILINE))
    uids = re.search(r"^Uid:\t\d+\t(\d+)", status, re.MULTILINE)
    try:
        return Sandbox(
            pid,
            int(fields["Seccomp"]),
            fields["NoNewPrivs"] == "1",
            int(fields["CapEff"], 16),
            int(uids[1]) if uids else 0,
        )
    except (KeyError, ValueError):
        return None


# -- the token ---------------------------------------------------------------------------------------


def claims_of(token: str) -> Mapping[str, Any] | None:
    """The claims that a token holds, unchecked; None where it is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def clock(date: str | None, now_s: float) -> Finding:
    """How far this clock is from the gateway's, by the header Date, which has whole seconds."""
    try:
        there_s = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        return Finding("clock", "warning", "the gateway's answer has no time, so clocks cannot be compared")
    skew_s = now_s - there_s
    if abs(skew_s) > LEEWAY_S:
        side = "ahead of" if skew_s > 0 else "behind"
        return Finding(
            "clock",
            "wrong",
            f"this clock is {abs(skew_s):.0f} s {side} the gateway's",
            "set both by NTP: tokens begin and end at the wrong time",
        )
    return Finding("clock", "ok", "within the gateway's leeway of 5 s")


def token(text: str | None, now_s: float) -> Finding:
    """What a token says of itself. ``now_s`` is the time in Unix seconds."""
    if text is None:
        return Finding("token", "ok", "none is sent")
    claims = claims_of(text)
    if claims is None:
        return Finding("token", "wrong", "not a JWT", "panels token makes one for development")
    whose = f"of {str(claims.get('sub'))[:64]}" if claims.get("sub") is not None else "without a sub"
    exp, iat = claims.get("exp"), claims.get("iat")
    if not isinstance(exp, (int, float)) or isinstance(exp, bool):
        return Finding("token", "wrong", f"{whose}, without exp", "ask for one that expires")
    if exp <= now_s:
        ago = f"expired {now_s - exp:.0f} s ago"
        return Finding("token", "wrong", f"{whose}, {ago}", "ask for a new one, or panels token")
    if isinstance(iat, (int, float)) and iat > now_s + LEEWAY_S:
        return Finding("token", "wrong", f"{whose}, issued in the future", "set the issuer's clock by NTP")
    if exp - now_s > DEFAULT_LIFETIME_S:
        return Finding(
            "token",
            "warning",
            f"{whose}, for more than a day",
            "a gateway takes it only with a higher --jwt-max-lifetime-s",
        )
    level: Level = "warning" if exp - now_s < SOON_S else "ok"
    mend = "ask for a new one soon" if level == "warning" else ""
    return Finding("token", level, f"{whose}, good for {exp - now_s:.0f} s", mend)
