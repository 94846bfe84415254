"""The other formats of a scan, its numbers and its page: complete, bounded, and safe to open."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from builders import coverage, media, policy
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from guard.errors import MissingExtra, UsageError
from guard.taxonomy import categories
from guard.types import (
    CategoryScore,
    ErrorInfo,
    Pass,
    Route,
    RouteReason,
    Rule,
    Segment,
    Thresholds,
    Timeline,
    Verdict,
)
from guard.verdict import policy_ref
from policies.canonical import make_policy
from policies.load import load_policy
from serve import results
from serve.failures import Exit
from serve.inputs import Input
from serve.report import Budget, Page, compact, embed, prose, render, thin, write_report
from serve.results import escape_cell, record_of, row_of, write_csv, write_parquet
from serve.same_content import speaks_of_content
from serve.summary import Cost, earlier_cost, exit_code, policy_line, print_summary, tally

POLICY = policy(Rule(category="violence.fighting", state="block", name="Fighting"), Rule(category="spam", state="flag"))
CATEGORIES = ["violence.fighting", "spam"]
RUN: dict[str, Any] = {
    "signature": {"versions": {"video_guard": "1"}, "max_gap_seconds": 2.0, "seed": 0},
    "started_at": None,
}
EVIL = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "<!--",
    "&lt;b&gt;",
    "\u2028",
]


def record(index: int = 0, source: str = "a.mp4", decision: str = "block", **changes: Any) -> dict[str, Any]:
    score = {"block": 0.97, "review": 0.5, "allow": 0.01, "undecided": 0.3}[decision]
    error = ErrorInfo(code="truncated", message=f"{source} broke off") if decision == "undecided" else None
    values: dict[str, Any] = {
        "decision": decision,
        "source": source,
        "sha256": f"{index:064x}",
        "policy": policy_ref(POLICY),
        "rationale": f"{source}: {decision}",
        "categories": {
            "violence.fighting": CategoryScore(score=score, flagged=decision == "block", threshold=0.9, stage="fast"),
            "spam": CategoryScore(score=None, flagged=False, threshold=0.9, stage="none"),
        },
        "segments": (
            Segment(start_seconds=1, end_seconds=2, category="violence.fighting", peak_seconds=1.5, peak_score=score),
        ),
        "route": Route(
            path="fast",
            reason=RouteReason.CONFIDENT_VIOLATION,
            confidence=0.9,
            thresholds={"violence.fighting": Thresholds(clear_below=0.1, block_at=0.9)},
        ),
        "coverage": coverage(),
        "media": media(),
        "timeline": Timeline(moment_seconds=(0.0, 1.5, 3.0), scores={"violence.fighting": (0.1, score, 0.2)}),
        "error": error,
    }
    return record_of(index, Input(path=source, size_bytes=1, mtime_ns=1), Verdict(**(values | changes)))


def page_of(records: list[dict[str, Any]], folder: Path) -> str:
    summary = {
        **tally(records).to_json(),
        "left_out": {},
        "cost": {"videos_scored": 1, "videos_per_second": None},
        "exit_code": 0,
    }
    write_report(folder / "report.html", lambda: iter(records), summary, RUN, POLICY)
    return (folder / "report.html").read_text("utf-8")


class Elements(HTMLParser):
    """Every element and attribute of a page, and the text of its data block."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and attributes.get("id") == "data":
            self.data += data


def test_rows_carry_the_top_category_and_the_peak() -> None:
    row = row_of(record(), CATEGORIES)
    assert (row["top_category"], row["top_score"], row["peak_seconds"]) == ("violence.fighting", 0.97, 1.5)
    assert (row["flagged"], row["slow_path"]) == ("violence.fighting", "not_needed")
    assert row["score:spam"] is None, "not judged is not zero"
    assert list(row) == list(results.columns(CATEGORIES))


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1", 'a"b,c\nd', "plain.mp4"]
    write_csv(tmp_path / "r.csv", [record(i, name) for i, name in enumerate(names)], CATEGORIES)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"].lstrip("'") for row in rows] == names
    for row in rows:
        assert not any(cell and cell[0] in "=+-@\t\r\uff1d" for cell in row.values()), row


@given(st.text())
def test_escaping_a_cell_keeps_its_text(text: str) -> None:
    escaped = escape_cell(text)
    assert escaped in (text, f"'{text}")
    assert not str(escaped).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_parquet_holds_the_rows_with_their_types(tmp_path: Path) -> None:
    import pyarrow.parquet

    records = [record(i, f"{i}.mp4", d) for i, d in enumerate(["block", "allow", "undecided"] * 900)]
    write_parquet(tmp_path / "r.parquet", records, CATEGORIES)
    table = pyarrow.parquet.read_table(tmp_path / "r.parquet")
    assert table.to_pylist() == [row_of(r, CATEGORIES) for r in records]
    assert str(table.schema.field("top_score").type) == "double"


def test_parquet_without_its_package_is_refused_before_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyarrow":
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra) as error:
        results.require_format("parquet")
    assert "[parquet]" in error.value.hint
    results.require_format("csv")


def test_formats_are_checked() -> None:
    assert results.parse_formats("jsonl, csv,csv") == ("jsonl", "csv")
    for wrong in ("", "xml", "csv,xml"):
        with pytest.raises(UsageError, match="jsonl, csv, parquet"):
            results.parse_formats(wrong)


@pytest.mark.parametrize(
    ("decisions", "codes", "fail_on", "expected"),
    [
        (["allow"], [], "review", Exit.OK),
        (["block"], [], None, Exit.OK),
        (["review"], [], "block", Exit.OK),
        (["review"], [], "review", Exit.FAIL_ON_MATCHED),
        (["block"], [], "review", Exit.FAIL_ON_MATCHED),
        (["undecided"], ["truncated"], None, Exit.SOME_UNDECIDED),
        (["undecided", "block"], ["truncated"], "block", Exit.FAIL_ON_MATCHED),
        (["undecided", "block"], ["vlm_unavailable"], "block", Exit.BACKEND_DOWN),
        (["review"], ["rate_limited"], None, Exit.BACKEND_DOWN),
        (["undecided"], ["not_a_code"], None, Exit.BACKEND_DOWN),
        (["review"], ["vlm_invalid_json"], None, Exit.SOME_UNDECIDED),
        (["review"], ["parse_error"], "review", Exit.FAIL_ON_MATCHED),
        (["review"], ["vlm_invalid_json", "vlm_timeout"], None, Exit.BACKEND_DOWN),
    ],
)
def test_exit_codes(decisions: list[str], codes: list[str], fail_on: str | None, expected: Exit) -> None:
    counts = tally([])
    counts.decisions.update(decisions)
    counts.errors.update(codes)
    assert exit_code(counts, fail_on) is expected


def test_the_summary_counts_every_decision_and_duplicates_once_in_time() -> None:
    records = [record(0), record(1, "b.mp4", "undecided"), {**record(2, "c.mp4"), "duplicate_of": "a.mp4"}]
    counts = tally(records).to_json()
    assert counts["decisions"] == {"block": 2, "review": 0, "undecided": 1, "allow": 0}
    assert counts["flagged"] == {"violence.fighting": 2}
    assert counts["errors"] == {"truncated": 1}
    assert counts["video_seconds"] == 20.0


def test_the_summary_names_inputs_that_failed_and_counts_what_needs_a_slow_path() -> None:
    records = [record(k, f"{k}.mp4", "undecided") for k in range(5)]
    waiting = Route(path="slow", reason=RouteReason.UNCERTAIN, confidence=0.2)
    records += [record(5, "5.mp4", "review", route=waiting, slow_path="not_configured")]
    records += [record(6, "6.mp4", "review", route=waiting, slow_path="answered")]
    counts = tally(records).to_json()
    assert counts["error_examples"] == {"truncated": ["0.mp4", "1.mp4", "2.mp4"]}
    assert counts["routes"] == {"fast": 5, "no_slow_path": 1, "slow": 1}


def printed(summary: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_summary(summary, Console(file=stream, width=200))
    return stream.getvalue()


def test_the_printed_summary_names_a_missing_path_and_counts_in_english() -> None:
    gone = ErrorInfo(code="input_not_found", message="gone")
    cost = Cost(scored=1, video_seconds=2.0, wall_seconds=1.0, cpu_seconds=1.0, peak_bytes=1 << 20)
    one = record(0, "no/such\x1b.mp4", "undecided", error=gone)
    shown = printed({**tally([one]).to_json(), "left_out": {}, "cost": cost.to_json()})
    assert "1 input " in shown
    assert "1 inputs" not in shown
    assert "1 video (2 s)" in shown
    assert "no/such\\x1b.mp4" in shown, "named, and unable to move the cursor"
    many = printed(
        {**tally([record(k) for k in range(2)]).to_json(), "left_out": {}, "cost": cost.plus(cost).to_json()}
    )
    assert "2 inputs " in many
    assert "2 videos (4 s) scored in 2.0 s, 2 scans together" in many


def test_costs_add_up_and_survive_the_file(tmp_path: Path) -> None:
    cost = Cost(scored=3, video_seconds=10.0, wall_seconds=2.0, cpu_seconds=4.0, peak_bytes=5 << 20)
    both = cost.plus(Cost(scored=1, video_seconds=2.0, wall_seconds=2.0, cpu_seconds=1.0, peak_bytes=9 << 20))
    assert (both.scored, both.wall_seconds, both.peak_bytes >> 20, both.sessions) == (4, 4.0, 9, 2)
    assert both.to_json()["videos_per_second"] == 1.0
    file = tmp_path / "summary.json"
    assert earlier_cost(file) is None
    file.write_text(json.dumps({"cost": both.to_json()}))
    assert earlier_cost(file) == both
    for broken in ("", "[]", "{}", '{"cost": {"videos_scored": 1}}'):
        file.write_text(broken)
        assert earlier_cost(file) is None


@pytest.mark.parametrize(
    ("decision", "code", "expected"),
    [
        ("allow", None, True),
        ("undecided", "truncated", True),
        ("undecided", "no_video_stream", True),
        ("undecided", "decode_timeout", False),
        ("undecided", "decoder_crashed", False),
        ("undecided", "detector_failed", False),
        ("review", "vlm_unavailable", False),
        ("review", "vlm_invalid_json", False),
        ("undecided", "input_changed", False),
        ("block", "decode_timeout", True),
    ],
)
def test_which_lines_are_true_of_every_copy(decision: str, code: str | None, expected: bool) -> None:
    error = None if code is None else {"code": code, "message": "", "hint": "", "retryable": False}
    assert speaks_of_content({"decision": decision, "error": error}) is expected


def test_the_page_shows_each_pass_and_where_a_slow_path_is_missing(tmp_path: Path) -> None:
    passes = (
        Pass(detectors=("tiny",), coverage=coverage(frames_scored=27, frames_decoded=76)),
        Pass(
            detectors=("flash",),
            coverage=coverage(frames_scored=76, frames_decoded=76, full_decode=True, largest_gap_seconds=0.0),
        ),
    )
    waiting = Route(path="slow", reason=RouteReason.UNCOVERED_RULE, confidence=0.0)
    row = compact(record(route=waiting, slow_path="not_configured", passes=passes), Budget(), tmp_path)
    assert row["v"] == [
        "tiny: 27 of 76 decoded frames scored, largest gap 1.00 s",
        "flash: every frame scored (76)",
    ]
    assert row["o"] == "left open by the screen, and no slow path is configured: uncovered rule"
    assert compact(record(), Budget(), tmp_path)["o"] == "fast path: confident violation"


def test_backticks_of_a_policy_are_code_and_nothing_else_is_markup() -> None:
    assert prose("use `screen` & <b>`a<b`") == "use <code>screen</code> &amp; &lt;b&gt;<code>a&lt;b</code>"
    assert prose("one ` alone") == "one ` alone"


def test_the_page_refers_to_nothing_outside_and_admits_only_its_own_script(tmp_path: Path) -> None:
    page = page_of([record(i, evil, "review", rationale=evil) for i, evil in enumerate(EVIL)], tmp_path)
    elements = Elements(page)
    assert [tag for tag, _ in elements.found if tag in ("link", "iframe", "img", "object", "base")] == []
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#"), tag
    policies = [a["content"] for t, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert "default-src 'none'" in policies[0]
    assert "unsafe" not in policies[0]
    assert [a.get("type") for t, a in elements.found if t == "script"] == ["application/json", None]


def test_the_hashes_of_the_policy_are_those_of_script_and_style(tmp_path: Path) -> None:
    import base64
    import hashlib

    page = page_of([record()], tmp_path)
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        named = re.search(rf"{tag}-src '(sha256-[^']+)'", page.replace("&#39;", "'").replace("&#43;", "+"))
        assert content is not None
        assert named is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert named[1] == f"sha256-{digest}"


def test_hostile_text_arrives_as_text(tmp_path: Path) -> None:
    page = page_of([record(i, evil, "undecided", rationale=evil) for i, evil in enumerate(EVIL)], tmp_path)
    assert page.count("</script>") == 2
    rows = json.loads(Elements(page).data)["rows"]
    assert [row["s"] for row in rows] == EVIL
    assert [row["r"] for row in rows] == EVIL


@given(st.text())
def test_embedded_json_cannot_leave_its_element(text: str) -> None:
    inside = embed({"x": text})
    assert not set(inside) & set("<>&\u2028\u2029")
    assert json.loads(inside) == {"x": text}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=900))
def test_thinning_keeps_the_highest_peak_and_the_order_of_time(series: list[float]) -> None:
    times, values = thin([k * 0.1 for k in range(len(series))], series, moments=50)
    assert len(times) == len(values) == min(50, len(series))
    assert max(values) == round(max(series) * 1000)
    assert times == sorted(times)


def test_ten_thousand_inputs_fit_on_the_page_and_it_says_what_is_left_out(tmp_path: Path) -> None:
    def many() -> Any:
        times = tuple(float(k) for k in range(200))
        line = Timeline(moment_seconds=times, scores={c: times_to_scores(times) for c in CATEGORIES})
        kinds = {d: record(0, decision=d, timeline=line) for d in ("allow", "block")}
        return ({**kinds["block" if k % 10 == 0 else "allow"], "index": k} for k in range(10_000))

    counts = tally(many())
    summary = {**counts.to_json(), "left_out": {}, "cost": {}, "exit_code": 0}
    write_report(tmp_path / "report.html", many, summary, RUN, POLICY)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 20e6
    rows = json.loads(Elements(page).data)["rows"]
    assert len(rows) == 10_000
    assert all(row["t"] for row in rows if row["d"] == "block"), "what a moderator looks at keeps its plot"
    assert "9,000 allowed inputs are shown without their score over time" in page


def times_to_scores(times: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(t / 200, 4) for t in times)


def test_pictures_stop_at_the_budget_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + b"x" * 998)
    picture = {"seconds": 1.0, "category": "spam", "path": "a.jpg"}
    budget = Budget(picture_bytes=2000)
    rows = [compact({**record(k), "evidence": [picture]}, budget, tmp_path) for k in range(3)]
    assert [len(row["p"]) for row in rows] == [1, 0, 0]
    assert any("2 pictures" in note for note in budget.notes())


def test_a_page_without_inputs_renders() -> None:
    summary = {**tally([]).to_json(), "left_out": {}, "cost": {}, "exit_code": 0}
    names = {rule.category: rule.name for rule in POLICY.active()}
    assert "0 inputs" in render(Page(rows=[], names=names), summary, RUN, POLICY)


def test_the_printed_summary_says_what_was_judged_and_that_nothing_else_was() -> None:
    policy = load_policy("screen")
    assert policy_line(policy) == (
        f"Policy screen {policy.version}: Fighting, Fire and arson, Road accident; nothing else was judged."
    )
    many = make_policy(
        name="many", version="2", rules={c: Rule(category=c, state="block") for c in list(categories())[:11]}
    )
    assert policy_line(many).endswith(" and 3 more; nothing else was judged.")
    cost = Cost(scored=1, video_seconds=2.0, wall_seconds=1.0, cpu_seconds=1.0, peak_bytes=1 << 20)
    stream = io.StringIO()
    summary = {**tally([record(0)]).to_json(), "left_out": {}, "cost": cost.to_json()}
    print_summary(summary, Console(file=stream, width=200), policy)
    assert policy_line(policy) in stream.getvalue()
