"""What the pages count, draw and preview, beside slow and obvious ways to the same."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import builders
import databases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from review_cases import FIGHT, judged, verdict

from fast_path.router import Config, build
from guard.errors import InvalidPolicy
from guard.evidence import Evidence
from guard.types import Rule, RuleState, Thresholds
from guard.verdict import decide
from guard.verdict_json import to_dict
from policies.edits import History
from policies.personalize import By
from serve.review import drawing, editing, rendering, stats
from serve.review.editing import RuleEdit
from serve.store.people import Review
from serve.store.session import Database
from serve.store.tables import ScoreHistory, Tenant, utc_now

NAMES = {FIGHT: "Fighting", "violence.fire": "Fire"}
CATEGORIES = (FIGHT, "violence.fire", "accidents.road")


def policy_of(states: dict[str, RuleState], bounds: dict[str, Thresholds | None] | None = None) -> Any:
    rules = [Rule(category=c, state=s, thresholds=(bounds or {}).get(c)) for c, s in states.items()]
    return builders.policy(*rules)


def machine(scores: dict[str, float], policy: Any) -> dict[str, Any]:
    """Decide as the pipeline does without a slow path."""
    found = (builders.scores(scores),)
    route = build(Config()).route(found, policy, builders.coverage())
    evidence = Evidence(video=builders.video(), policy=policy, scores=found, route=route, coverage=builders.coverage())
    return to_dict(decide(evidence))


@given(
    st.fixed_dictionaries({c: st.integers(0, 19).map(lambda n: n / 20 + 0.013) for c in CATEGORIES}),
    st.fixed_dictionaries({c: st.sampled_from(["off", "flag", "block"]) for c in CATEGORIES}),
    st.fixed_dictionaries({c: st.sampled_from(["off", "flag", "block"]) for c in CATEGORIES}),
    st.sampled_from([None, Thresholds(clear_below=0.25, block_at=0.75), Thresholds(clear_below=0.5, block_at=0.5)]),
)
def test_deciding_again_from_stored_scores_is_deciding(
    scores: dict[str, float], before: Any, after: Any, bounds: Thresholds | None
) -> None:
    """A verdict made under one policy, decided again under another, is what the other would have decided.

    Verdicts keep six digits of a score, so a tie with a threshold may fall to the other side; none is drawn here.
    """
    wanted = policy_of(after, {FIGHT: bounds})
    under_all = policy_of(dict.fromkeys(CATEGORIES, "flag"))
    stored = machine(scores, under_all)  # scores of all three are on record
    assert editing.redecide(stored, wanted) == machine(scores, wanted)["decision"]
    own = policy_of(before)
    assert editing.redecide(machine(scores, own), own) == machine(scores, own)["decision"]


def test_what_the_slow_path_settled_stays_settled() -> None:
    stored = machine({FIGHT: 0.5}, policy_of({FIGHT: "block"}))
    for flagged, expected in ((True, "block"), (False, "allow")):
        stored["categories"][FIGHT] |= {"stage": "slow", "flagged": flagged}
        low = policy_of({FIGHT: "block"}, {FIGHT: Thresholds(clear_below=0.0, block_at=0.1)})
        assert editing.redecide(stored, low) == expected


def test_low_scores_of_what_was_half_seen_clear_nothing() -> None:
    policy = policy_of({FIGHT: "block"})
    stored = machine({FIGHT: 0.01}, policy)
    assert editing.redecide(stored, policy) == "allow"
    assert editing.redecide(stored | {"degraded": True}, policy) == "review"
    poor = stored | {"route": stored["route"] | {"reason": "poor_coverage"}}
    assert editing.redecide(poor, policy) == "review"


def test_a_rule_that_nobody_scored_goes_to_a_person() -> None:
    stored = machine({FIGHT: 0.0}, policy_of({FIGHT: "block"}))
    assert editing.redecide(stored, policy_of({FIGHT: "block", "sexual": "block"})) == "review"


def test_a_preview_names_what_changes_and_leaves_peoples_words_alone() -> None:
    before = policy_of({FIGHT: "block"})
    after = policy_of({FIGHT: "block"}, {FIGHT: Thresholds(clear_below=0.1, block_at=0.5)})
    stored = [("j1", "a", machine({FIGHT: 0.62}, before), None), ("j2", "b", machine({FIGHT: 0.62}, before), "ovr_1"),
              ("j3", "c", machine({FIGHT: 0.05}, before), None),
              ("j4", "d", to_dict(verdict({}, decision="undecided")), None)]  # fmt: skip
    found = editing.compare(stored, before, after, FIGHT)
    assert (found.looked_at, found.kept, found.unscored) == (4, 2, 1)
    assert found.before == {"review": 2, "allow": 1, "undecided": 1}
    assert found.after == {"block": 1, "review": 1, "allow": 1, "undecided": 1}
    assert [(c.job_id, c.before, c.after) for c in found.changed] == [("j1", "review", "block")]
    assert found.changed[0].score == pytest.approx(0.62)


def test_an_edit_is_refused_where_a_lock_or_nothing_known_forbids_it() -> None:
    base = policy_of({FIGHT: "block"})
    locked = builders.policy(Rule(category=FIGHT, state="block", locked=True))
    history, by = History(name="t"), By(author="ana")
    with pytest.raises(InvalidPolicy):
        editing.candidate(history, locked, RuleEdit(category=FIGHT, state="off"), by)
    for category in ("violence.nonsense", "sexual", "custom.new"):
        with pytest.raises(InvalidPolicy, match="no rule"):
            editing.candidate(history, base, RuleEdit(category=category, state="block"), by)
    made = editing.candidate(history, base, RuleEdit(category="sexual", state="block", definition="Nudity."), by)
    assert made.policy.rules["sexual"].definition == "Nudity."
    again = editing.candidate(made.history, base, RuleEdit(category="sexual", state="block", definition="Nudity."), by)
    assert again.changed == ()
    with pytest.raises(InvalidPolicy, match="one of"):
        editing.candidate(history, base, RuleEdit(category=FIGHT, state="burn"), by)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert stats.percentile(values, share) == np.quantile(values, share, method="inverted_cdf")


def test_the_stability_index_is_zero_for_alike_and_grows_with_a_shift() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.beta(2, 5, 2000).tolist(), rng.beta(2, 5, 2000).tolist()
    assert stats.stability_index(first, first) == pytest.approx(0)
    assert stats.stability_index(first, second) < 0.02
    shifted = [min(1.0, v + 0.2) for v in second]
    assert stats.stability_index(first, shifted) > stats.SHIFTED
    slow = 0.0
    p, q = (np.histogram(v, bins=10, range=(0, 1))[0] + 0.5 for v in (first, shifted))
    for a, b in zip(p / p.sum(), q / q.sum(), strict=True):
        slow += (b - a) * math.log(b / a)
    assert stats.stability_index(first, shifted) == pytest.approx(slow)


@pytest.mark.parametrize(("agreed", "count", "low", "high"), [(0, 0, 0, 1), (8, 10, 0.490, 0.943), (10, 10, 0.722, 1)])
def test_the_interval_is_wilsons(agreed: int, count: int, low: float, high: float) -> None:
    assert stats.wilson(agreed, count) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


@pytest.fixture(params=databases.KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = databases.fresh(request.param, tmp_path)
    with made.write() as session:
        session.add_all([Tenant(id="a", name="a"), Tenant(id="b", name="b")])
    yield made
    made.close()


def test_the_dashboard_counts_as_a_slow_count_does(database: Database) -> None:
    rng, now = random.Random(3), utc_now()
    rows = [
        {
            "tenant_id": rng.choice(["a", "a", "a", "b"]), "at": now - timedelta(hours=rng.random() * 24 * 13),
            "kind": rng.choice(["video", "text"]), "policy_name": rng.choice(["screen", "default"]),
            "policy_hash": "f" * 64, "decision": rng.choice(stats.DECISIONS), "path": rng.choice(["fast", "slow"]),
            "degraded": rng.random() < 0.1, "error_code": rng.choice([None, None, "truncated"]),
            "latency_ms": float(rng.randrange(1, 1000)), "media_seconds": 2.0, "scores": {FIGHT: rng.random()},
        }
        for _ in range(600)
    ]  # fmt: skip
    said = [(rng.choice([True, False, None]), rng.random() < 0.2) for _ in range(40)]
    with database.write() as session:
        session.add_all(ScoreHistory(**row) for row in rows)
        for number, (agrees, undone) in enumerate(said):
            session.add(
                Review(
                    tenant_id="a", job_id=f"j{number}", reviewer="k", decision="block", machine_decision="review",
                    agrees=agrees, undone_at=now if undone else None, seconds_spent=float(number), created_at=now,
                )
            )  # fmt: skip
    with database.read() as session:
        found = stats.dashboard(session, "a", "week", now)
    mine = [row for row in rows if row["tenant_id"] == "a" and row["at"] >= now - timedelta(days=7)]
    assert found.total == len(mine)
    assert {k: v for k, v in found.decisions.items() if v} == Counter(row["decision"] for row in mine)
    assert sum(sum(bar.values()) for _, bar in found.bars) == len(mine)
    assert len(found.bars) == 28
    assert found.escalated == sum(row["path"] == "slow" for row in mine)
    assert (found.degraded, found.errors) == (
        sum(r["degraded"] for r in mine),
        sum(r["error_code"] is not None for r in mine),
    )
    assert found.media_seconds == pytest.approx(2.0 * len(mine))
    for kind in ("video", "text"):
        values = [row["latency_ms"] for row in mine if row["kind"] == kind]
        assert found.latency_ms[kind]["p95"] == np.quantile(values, 0.95, method="inverted_cdf")
    assert dict(found.policies)["screen"] == Counter(r["decision"] for r in mine if r["policy_name"] == "screen")
    (drift,) = found.drift
    assert (drift.category, drift.count, drift.shifted) == (FIGHT, len(mine), False)
    standing = [agrees for agrees, undone in said if not undone]
    overall = found.agreement[0]
    assert (overall.kind, overall.count) == ("all", sum(a is not None for a in standing))
    assert overall.agreed == sum(a is True for a in standing)
    assert (found.reviewed, found.undone) == (len(standing), len(said) - len(standing))


def test_the_dashboard_of_nobody_is_empty_and_still_a_page(database: Database) -> None:
    with database.read() as session:
        found = stats.dashboard(session, "nobody", "day", utc_now())
    assert (found.total, found.drift, found.agreement, found.latency_ms) == (0, [], [], {})
    bars = drawing.stacked([counts for _, counts in found.bars], stats.DECISIONS)
    assert all(height == 0 for bar in bars for *_, height in bar)


@given(st.lists(st.fixed_dictionaries({"a": st.integers(0, 50), "b": st.integers(0, 50)}), min_size=1, max_size=30))
def test_bars_fill_the_box_and_no_more(rows: list[dict[str, int]]) -> None:
    bars = drawing.stacked(rows, ("a", "b"))
    heights = [sum(height for *_, height in bar) for bar in bars]
    assert max(heights) == pytest.approx(drawing.HEIGHT if any(sum(r.values()) for r in rows) else 0)
    for bar in bars:
        for _, x, y, width, _ in bar:
            assert -1e-6 <= x <= drawing.WIDTH - width + 1e-6
            assert y >= -1e-6


def test_marks_are_peaks_starts_and_what_the_model_cites_in_order() -> None:
    found = drawing.timeline(to_dict(verdict({FIGHT: 0.62, "violence.fire": 0.3}, judgement=judged())), NAMES)
    assert [(mark.seconds, mark.kind) for mark in found.marks] == [
        (2.0, "segment"), (3.0, "seen"), (4.0, "cited"), (4.0, "peak"),
    ]  # fmt: skip
    assert found.marks[3].label == "Fighting peaks at 0.62; Fire peaks at 0.30"
    assert found.duration_seconds == 10.0
    assert [strip.category for strip in found.strips] == [FIGHT, "violence.fire"]
    strip = found.strips[0]
    assert (strip.peak, strip.peak_seconds) == (0.62, 4.0)
    assert strip.segments == ((200.0, 400.0, 2.0, 6.0),)
    assert strip.bounds == (("clear-below", pytest.approx(54.0), 0.1), ("block-at", pytest.approx(6.0), 0.9))


def test_a_verdict_without_anything_draws_nothing() -> None:
    found = drawing.timeline(
        to_dict(verdict({}, decision="undecided", media=None, coverage=None, timeline=None)), NAMES
    )
    assert (found.strips, found.marks, found.duration_seconds) == ((), (), 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0.0 s"), (7.44, "7.4 s"), (65, "1:05"), (3723, "1:02:03")]
)
def test_times_read_as_people_write_them(seconds: float | None, text: str) -> None:
    assert drawing.clock(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>", "<bdi>&lt;b&gt;</bdi>"),
        ("a\u202eb", 'a<span class="escaped">\\u{202e}</span>b'),
        ("a\x00b", "\\u{0}"),
        ("ü 漢 🙂", "ü 漢 🙂"),
    ],
)
def test_text_of_others_is_shown_as_what_it_is(text: str, shown: str) -> None:
    assert shown in rendering.visible(text)


@given(st.text(max_size=60))
def test_no_text_becomes_markup(text: str) -> None:
    inside = rendering.visible(text).removeprefix("<bdi>").removesuffix("</bdi>")
    without = inside.replace('<span class="escaped">', "").replace("</span>", "")
    assert "<" not in without
    assert ">" not in without


def test_what_looks_alike_is_found_by_its_frames_and_unlike_is_not(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from media import render
    from review_cases import add_content, add_job, moving

    from serve.blobs import Blobs
    from serve.review import alike
    from serve.store.tables import Job

    database = databases.fresh("sqlite", tmp_path)
    service = SimpleNamespace(blobs=Blobs(tmp_path / "blobs", max_bytes=1 << 30))

    def other(number: int) -> Any:
        return np.ascontiguousarray(moving(number)[::-1, ::-1])

    clips = {
        "first": render(frames=30, size=(320, 180), draw=moving),
        "re-encoded": render(frames=30, size=(320, 180), draw=moving, options={"crf": "38"}),
        "unlike": render(frames=30, size=(320, 180), draw=other),
    }
    jobs = {}
    for number, (name, clip) in enumerate(clips.items()):
        jobs[name] = add_job(database, verdict({FIGHT: 0.5}, number=number, source=name), queued=False)
        add_content(service, database, jobs[name], clip)
    copy = add_job(database, verdict({FIGHT: 0.5}, number=0, source="the very same"), queued=False)
    add_content(service, database, copy, clips["first"])
    foreign = add_job(database, verdict({FIGHT: 0.5}, number=9, source="foreign"), tenant="other", queued=False)
    add_content(service, database, foreign, clips["first"])
    with database.read() as session:
        found = alike.near(session, service.blobs, session.get_one(Job, jobs["first"]))
    assert [near.job.source for near in found] == ["re-encoded"]
    assert found[0].bits <= alike.NEAR_BITS
    database.close()
