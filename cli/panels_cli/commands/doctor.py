"""`panels doctor`: is everything as it should be, and what mends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import typer

from panels_cli import checks, gauges, sandboxes
from panels_cli.api import Api, refusal
from panels_cli.checks import Finding
from panels_cli.context import Target
from panels_cli.faults import EXIT_REFUSED, EXIT_UNREACHABLE, UnreachableError
from panels_cli.session import Json, session_of

_MARKS: Final = {
    "ok": ("ok     ", "green"),
    "warning": ("warning", "yellow"),
    "wrong": ("WRONG  ", "bold red"),
}


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Look at the gateway, its workers, the token and the clocks.

    The exit code is 1 if something is wrong, 3 if the gateway cannot be reached. Sandboxes are looked at if
    the gateway is on this machine.
    """
    session = session_of(ctx)
    output = session.output(json)
    target = session.target()
    findings: list[Finding] = []
    with Api(target.context) as api:
        for finding in look(api, target):
            findings.append(finding)
            if not json:
                output.line(_MARKS[finding.level], f" {finding.what}: {finding.text}")
                if finding.mend:
                    output.line("        ", (f"→ {finding.mend}", "bold"))
    if json:
        output.value(
            {
                "url": target.context.url,
                "findings": [
                    {"what": f.what, "level": f.level, "text": f.text, "mend": f.mend} for f in findings
                ],
            }
        )
    wrong = [finding for finding in findings if finding.level == "wrong"]
    if any(finding.what == "gateway" for finding in wrong):
        raise typer.Exit(EXIT_UNREACHABLE)
    if wrong:
        raise typer.Exit(EXIT_REFUSED)


def look(api: Api, target: Target) -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    url = target.context.url
    try:
        answer = api.look("GET", "/health")
        now_s = time.time()
    except UnreachableError as exc:
        yield Finding(
            "gateway",
            "wrong",
            f"{str(exc).split('; panels doctor')[0]} (URL from {target.url_from})",
            "start it: panels-gateway, or name another one by --url",
        )
        return
    if answer.status not in (200, 503) or not isinstance(answer.value, dict) or "status" not in answer.value:
        yield Finding(
            "gateway",
            "wrong",
            f"{url}/health answered {answer.status}, and not as a gateway does",
            "check the URL, and what the proxy in front passes on",
        )
        return
    yield Finding("gateway", "ok", f"{url} answers (URL from {target.url_from})")
    yield from checks.health(answer.value)
    if answer.status == 200:  # otherwise it has been said why not
        ready = api.look("GET", "/health/ready")
        yield from checks.ready(ready.status, ready.value)
    metrics = api.look("GET", "/metrics")
    yield checks.workers(metrics.text if metrics.status == 200 else "")
    if metrics.status == 200:
        yield from checks.handlers(gauges.parse(metrics.text, 0.0))
    if checks.is_loopback(url):
        yield from checks.confinement(sandboxes.find())
    yield checks.clock(answer.headers.get("date"), now_s)
    yield checks.token(target.context.token, now_s)
    if target.context.token is not None and not url.startswith("https:") and not checks.is_loopback(url):
        yield Finding("transport", "warning", "the token travels unencrypted", "use an https URL")
    asked = api.look("GET", "/panels", query={"limit": 1})
    if asked.status == 200:
        yield Finding("access", "ok", "the gateway takes what is sent")
    else:
        said = refusal(url, asked.status, asked.value)
        yield Finding(
            "access", "wrong", str(said).partition(";")[0], "panels token makes one for development"
        )
