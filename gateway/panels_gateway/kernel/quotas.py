"""What subjects, panels and tools have used, and which triggers are refused for it.

    intake  ── exceeded ──▶ nothing, or QUOTA_EXCEEDED      before anything is queued
    commits ── charge ───▶ subject, panel, tool             what a run really used, however it ended

A subject is whoever the token names; callers without a subject count as one, and what a panel does
by itself counts as the panel's. Resumptions are charged and never refused: their handlers were let in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from panels_gateway.kernel.counters import Counters
from panels_gateway.observe.top_panels import TopPanels
from panels_gateway.panels.quota import Accounts, Quota, Shortage
from panels_gateway.panels.trigger import Refused, Trigger
from panels_shared.errors import Code
from panels_shared.outcome import Usage

Kind = Literal["subject", "panel", "tool"]
_UNITS: Final = {"fuel": "units of fuel", "time": "ms of execution"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """The quotas of each subject, each panel and each tool. A definition may lower the latter two, and never
    raise them.
    """

    subject: Quota = field(default_factory=Quota)
    panel: Quota = field(default_factory=Quota)
    tool: Quota = field(default_factory=Quota)


class Quotas:
    """See the module's docstring. Where neither the gateway nor the panel's definition has a quota, both
    methods do nothing.
    """

    def __init__(self, limits: QuotaLimits, counters: Counters, top: TopPanels | None = None) -> None:
        self._counters = counters
        self._top = top if top is not None else TopPanels(0.0)
        self._fuel = self._top.used
        self._subjects: Accounts[str] = Accounts(limits.subject)
        self._panels: Accounts[int] = Accounts(limits.panel)
        self._tools: Accounts[tuple[int, str]] = Accounts(limits.tool)
        self._is_set = limits.subject.is_set or limits.panel.is_set or limits.tool.is_set

    def exceeded(self, trigger: Trigger, now_s: float) -> Refused | None:
        """The refusal of a trigger whose subject, panel or tool has used up its quota."""
        own = trigger.panel.definition.quotas
        if not (self._is_set or own):
            return None
        number, tool = trigger.panel.number, trigger.tool.name
        if self._subjects.is_set:
            shortage = self._subjects.shortage(trigger.subject, None, now_s)
            if shortage is not None:
                return self._refused("subject", shortage)
        quota = own.get("")
        if self._panels.is_set or quota is not None:
            shortage = self._panels.shortage(number, quota, now_s)
            if shortage is not None:
                return self._refused("panel", shortage)
        quota = own.get(tool)
        if self._tools.is_set or quota is not None:
            shortage = self._tools.shortage((number, tool), quota, now_s)
            if shortage is not None:
                return self._refused("tool", shortage)
        return None

    def charge(self, trigger: Trigger, usage: Usage, now_s: float) -> None:
        """Charges what a run used. A worker's word counts only within the tool's limits: fuel that it cannot
        tell is all of the tool's, and time is at most twice the tool's.
        """
        limits = trigger.tool.limits
        fuel, time_us = usage.fuel, usage.execution_us
        if not 0 <= fuel <= limits[0]:
            fuel = limits[0]
        if not 0 <= time_us <= 2_000 * limits[1]:
            time_us = 2_000 * limits[1]
        counters = self._counters
        counters.fuel += fuel
        counters.execution_us += time_us
        try:
            self._fuel[trigger.panel.id] += fuel
        except KeyError:
            self._top.charge(trigger.panel.id, fuel)
        own = trigger.panel.definition.quotas
        if not (self._is_set or own):
            return
        number, tool = trigger.panel.number, trigger.tool.name
        if self._subjects.is_set:
            self._subjects.charge(trigger.subject, None, fuel, time_us, now_s)
        quota = own.get("")
        if self._panels.is_set or quota is not None:
            self._panels.charge(number, quota, fuel, time_us, now_s)
        quota = own.get(tool)
        if self._tools.is_set or quota is not None:
            self._tools.charge((number, tool), quota, fuel, time_us, now_s)

    def _refused(self, kind: Kind, shortage: Shortage) -> Refused:
        counted = self._counters.over_quota
        label = f"{kind}_{shortage.resource}"
        counted[label] = counted.get(label, 0) + 1
        message = (
            f"expected at most {shortage.limit} {_UNITS[shortage.resource]} in {shortage.window_s:g} s for "
            f"this {kind}, and they are used up; try again later"
        )
        details: dict[str, object] = {
            "quota": kind,
            "resource": shortage.resource,
            "limit": shortage.limit,
            "windowS": round(shortage.window_s, 3),
            "retryAfterMs": max(1, math.ceil(shortage.wait_s * 1e3)),
        }
        return Refused(Code.QUOTA_EXCEEDED, message, details)
