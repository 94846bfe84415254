"""The numbers of the dashboard: volume, decisions, escalation, latency, agreement, drift. No content, no file names.

Counts are made by the database in one pass over the window; percentiles and distributions over the newest rows of it,
so that a busy tenant's dashboard costs no more than a quiet one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, func, select
from sqlalchemy.orm import Session

from serve.store.people import Review
from serve.store.tables import ScoreHistory

DECISIONS = ("block", "review", "undecided", "allow")
WINDOWS: Mapping[str, tuple[timedelta, int]] = {
    "day": (timedelta(days=1), 1), "week": (timedelta(days=7), 6), "month": (timedelta(days=30), 24),
}  # fmt: skip
"""Name to length and hours per bar."""
_SAMPLE = 4000
BINS = 10
SHIFTED = 0.25
"""Population stability index from which a distribution counts as another one, by the usual rule of thumb."""
_LEAST = 30
"""Scores needed on either side to speak of drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the scores of one category changed from the window before to this one."""

    category: str
    index: float
    now: tuple[float, ...]
    """Share of scores in each tenth of [0, 1]."""
    before: tuple[float, ...]
    count: int
    shifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often people said what the machine leaned to."""

    kind: str
    count: int
    agreed: int
    low: float
    """Ends of the 95 % Wilson interval of the share."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One window of one tenant."""

    window: str
    total: int
    decisions: Mapping[str, int]
    bars: Sequence[tuple[datetime, Mapping[str, int]]]
    escalated: int
    degraded: int
    errors: int
    media_seconds: float
    latency_ms: Mapping[str, Mapping[str, float]]
    """Kind of input to p50, p95 and p99."""
    policies: Sequence[tuple[str, Mapping[str, int]]]
    drift: Sequence[Drift]
    agreement: Sequence[Agreement]
    reviewed: int
    undone: int
    median_review_seconds: float | None


def dashboard(session: Session, tenant_id: str, window: str, now: datetime) -> Dashboard:
    """Return the numbers of one window that ends now."""
    length, hours = WINDOWS[window]
    since = now - length
    mine = [ScoreHistory.tenant_id == tenant_id, ScoreHistory.at >= since]
    groups = _groups(session, mine)
    reviewed, undone, median, agreement = _people(session, tenant_id, since)
    decisions = _tally(groups, lambda group: group.decision)
    return Dashboard(
        window=window, total=sum(group.count for group in groups), bars=_bars(groups, since, now, hours),
        decisions={decision: decisions.get(decision, 0) for decision in DECISIONS},
        escalated=sum(group.count for group in groups if group.slow),
        degraded=sum(group.count for group in groups if group.degraded),
        errors=sum(group.count for group in groups if group.failed),
        media_seconds=sum(group.media_seconds for group in groups), latency_ms=_latency(session, mine),
        policies=_policies(groups), drift=_drift(session, tenant_id, since, length), agreement=agreement,
        reviewed=reviewed, undone=undone, median_review_seconds=median,
    )  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (nearest rank); NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def shares(scores: Sequence[float]) -> tuple[float, ...]:
    """Return the share of scores in each tenth of [0, 1]; 1.0 counts to the last."""
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, int(score * BINS))] += 1
    return tuple(count / max(1, len(scores)) for count in counts)


def stability_index(before: Sequence[float], now: Sequence[float]) -> float:
    """Return the population stability index of two samples of scores, half a count added to each bin.

    0 for equal shares; 0.1 is a slight shift, 0.25 another distribution (Siddiqi, Credit Risk Scorecards, 2006).
    """
    first, second = ([s * len(v) + 0.5 for s in shares(v)] for v in (before, now))
    p, q = ([n / sum(counts) for n in counts] for counts in (first, second))
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def wilson(agreed: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share; (0, 1) for no observation."""
    if count == 0:
        return 0.0, 1.0
    share, squared = agreed / count, z * z / count
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of one hour that are alike in all that is counted."""

    hour: str
    decision: str
    policy: str
    slow: bool
    degraded: bool
    failed: bool
    count: int
    media_seconds: float


def _groups(session: Session, mine: Sequence[Any]) -> list[_Group]:
    """Go through the window once: everything that is counted is a sum over these."""
    keys = (
        _hour(session), ScoreHistory.decision, ScoreHistory.policy_name, ScoreHistory.path == "slow",
        ScoreHistory.degraded, ScoreHistory.error_code.is_not(None),
    )  # fmt: skip
    query = select(*keys, func.count(), func.sum(ScoreHistory.media_seconds)).where(*mine).group_by(*keys)
    return [
        _Group(row[0], row[1], row[2], bool(row[3]), bool(row[4]), bool(row[5]), row[6], float(row[7] or 0.0))
        for row in session.execute(query)
    ]


def _tally(groups: Iterable[_Group], key: Callable[[_Group], str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for group in groups:
        found[key(group)] = found.get(key(group), 0) + group.count
    return found


def _bars(
    groups: Sequence[_Group], since: datetime, now: datetime, hours: int
) -> list[tuple[datetime, Mapping[str, int]]]:
    count = max(1, round((now - since).total_seconds() / 3600 / hours))
    starts = [now - timedelta(hours=hours * (count - n)) for n in range(count)]
    inside: list[list[_Group]] = [[] for _ in starts]
    for group in groups:
        moment = datetime.strptime(f"{group.hour}:30 +0000", "%Y-%m-%d %H:%M %z")  # the middle of the hour
        index = int((moment - starts[0]).total_seconds() // 3600 // hours)
        inside[min(count - 1, max(0, index))].append(group)
    return [(start, _tally(own, lambda g: g.decision)) for start, own in zip(starts, inside, strict=True)]


def _hour(session: Session) -> ColumnElement[str]:
    """Return the hour of a row in UTC as `2026-01-31 07`."""
    if session.get_bind().dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", ScoreHistory.at), "YYYY-MM-DD HH24")
    return func.substr(cast(ScoreHistory.at, Text), 1, 13)


def _latency(session: Session, mine: Sequence[Any]) -> dict[str, dict[str, float]]:
    query = select(ScoreHistory.kind, ScoreHistory.latency_ms).where(*mine).order_by(ScoreHistory.at.desc())
    by_kind: dict[str, list[float]] = {}
    for kind, value in session.execute(query.limit(_SAMPLE)):
        by_kind.setdefault(kind, []).append(value)
    points = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    return {kind: {name: percentile(v, share) for name, share in points} for kind, v in sorted(by_kind.items())}


def _policies(groups: Sequence[_Group]) -> Sequence[tuple[str, Mapping[str, int]]]:
    totals = _tally(groups, lambda group: group.policy)
    most = sorted(totals, key=lambda name: -totals[name])[:20]
    return [(name, _tally((g for g in groups if g.policy == name), lambda g: g.decision)) for name in most]


def _drift(session: Session, tenant_id: str, since: datetime, length: timedelta) -> list[Drift]:
    own = ScoreHistory.tenant_id == tenant_id
    now = _scores(session, own, ScoreHistory.at >= since)
    before = _scores(session, own, ScoreHistory.at < since, ScoreHistory.at >= since - length)
    found = []
    for category, scores in now.items():
        earlier = before.get(category, [])
        if min(len(scores), len(earlier)) >= _LEAST:
            index = stability_index(earlier, scores)
            found.append(
                Drift(category=category, index=index, now=shares(scores), before=shares(earlier), count=len(scores),
                      shifted=index >= SHIFTED)
            )  # fmt: skip
    return sorted(found, key=lambda drift: -drift.index)


def _scores(session: Session, *where: Any) -> dict[str, list[float]]:
    query = select(ScoreHistory.scores).where(*where).order_by(ScoreHistory.at.desc()).limit(_SAMPLE)
    found: dict[str, list[float]] = {}
    for scores in session.scalars(query):
        for category, score in scores.items():
            found.setdefault(category, []).append(float(score))
    return found


def _people(session: Session, tenant_id: str, since: datetime) -> tuple[int, int, float | None, list[Agreement]]:
    query = select(Review.machine_decision, Review.agrees, Review.undone_at, Review.seconds_spent)
    rows = session.execute(query.where(Review.tenant_id == tenant_id, Review.created_at >= since)).all()
    standing = [row for row in rows if row[2] is None]
    spent = [row[3] for row in standing if row[3] is not None]
    agreement = []
    for kind in ("all", *DECISIONS):
        said = [row[1] for row in standing if row[1] is not None and kind in ("all", row[0])]
        if said:
            low, high = wilson(sum(said), len(said))
            agreement.append(Agreement(kind=kind, count=len(said), agreed=sum(said), low=low, high=high))
    median = percentile(spent, 0.5) if spent else None
    return len(standing), len(rows) - len(standing), median, agreement
