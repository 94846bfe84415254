"""`guard distill`: dedup, audit, score, select, write.

    distill(manifest, keep="2.4%", out=RUN)  ->  RUN/selected.jsonl   the kept manifest, ready for `guard train fast`
                                                 RUN/scores.parquet   every row with its scores and what became of it
                                                 RUN/audit/           the review queue
                                                 RUN/report.html, RUN/run.json

A killed run goes on where it was: looked-at clips and gradient shards are kept, and the rest is quick and
deterministic.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_filter import audit, clips, dedup, guards, leakage, manifest, scorefile
from data_filter.audit import AuditConfig, Finding
from data_filter.clips import Clip, ClipSettings
from data_filter.leakage import Fingerprint
from data_filter.report import Report, write_report
from data_filter.review import ReviewQueue
from data_filter.shards import atomic_write
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection
from data_filter.warmup import WarmUpConfig, describe, warm_up
from fast_path import dataset
from fast_path.dataset import Row
from fast_path.features import FeatureCache
from guard import plugins
from guard._version import __version__
from guard.errors import ResumeMismatch, UsageError

Progress = Callable[[str, int, int], None]
SIGN_QUERIES = 64  # planted copies of more would say the same for more time


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Settings of a run; they go into `run.json` and decide whether a run may be resumed."""

    keep: str = "2.4%"
    scorer: str = "grad_cos"
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    selector: str = "facility_location"
    selector_settings: dict[str, Any] = field(default_factory=dict)
    audit: AuditConfig | None = field(default_factory=AuditConfig)
    """None keeps likely wrong labels in."""
    dedup: bool = True
    decode: bool = True
    """Without, embeddings must be given, and look-alikes of test clips cannot be found."""
    floor: int = 1
    """The run fails where a label set with rows to give has fewer picks than this."""
    seed: int = 0
    workers: int = 1
    clips: ClipSettings = field(default_factory=ClipSettings)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did."""

    out: Path
    kept: int
    pool: int
    dropped: dict[str, int]
    """Rows left out before selection, by reason."""
    picks: dict[str, int]
    """Kept rows by label set."""
    diversity: float
    """How many different directions the kept embeddings have (Vendi score)."""
    failures: int
    """Rows that could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """The rows of a manifest, looked at."""

    pool: FeatureView
    queries: FeatureView | None
    rows: tuple[Row, ...]
    prints: tuple[Fingerprint, ...]
    query_prints: tuple[Fingerprint, ...]
    test_prints: tuple[Fingerprint, ...]
    thumbnails: dict[str, bytes]
    failures: tuple[clips.Failure, ...]


def distill(
    path: Path,
    out: Path,
    config: DistillConfig | None = None,
    *,
    queries: Path | None = None,
    embeddings: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Distil the `train` rows of a manifest.

    Args:
        path: Manifest (JSONL or CSV); its `val` rows are the queries unless `queries` is given, its `test` rows are
        kept out. out: Run directory. One that holds a run with other settings is refused.
        config: Settings.
        queries: Another manifest, all of whose rows are queries.
        embeddings: `.npz` with `ids` and `embeddings` for every pool and query row; otherwise the fast path's
        encoder makes them. progress: Called with the stage, how much is done, and how much there is.

    Raises:
        UsageError: a guard refused (leaking queries, wrong sign, a group under its floor), or a setting cannot be.
        ResumeMismatch: `out` holds a run with other settings.
    """
    settings = config or DistillConfig()
    scorefile.require_parquet()
    scorer = plugins.load("scorer", settings.scorer, **settings.scorer_settings)
    selector = plugins.load("selector", settings.selector, **settings.selector_settings)
    splits = manifest.read(path)
    asked = splits.queries if queries is None else tuple(dataset.read_manifest(queries))
    budget = manifest.parse_keep(settings.keep, len(splits.pool))
    _claim(out, settings, path, queries, embeddings)
    clock = _Clock()
    with clock("look"):
        looked = _look(splits, asked, path, queries or path, settings, embeddings, out, progress)
    leakage.refuse(looked.query_prints, looked.test_prints)
    with clock("dedup"):
        dropped, pairs = _duplicates(looked, settings)
    with clock("gradients"):
        pool, asked_view, describe_more = _described(looked, settings, out)
    with clock("audit"):
        findings = [] if settings.audit is None else audit.audit(pool, settings.audit)
        for finding in findings:
            if finding.flagged:
                dropped.setdefault(finding.id, f"label in doubt: {finding.label} or {finding.suggested}")
        ReviewQueue(out / "audit").write(findings)
    allowed = np.array([name not in dropped for name in pool.ids], dtype=np.bool_)
    sign = None
    if scorer.signed and asked_view is not None:
        some = np.random.default_rng(settings.seed).permutation(len(asked_view))[:SIGN_QUERIES]
        sign = guards.sign_check(scorer, pool, asked_view.take(np.sort(some)), describe_more, seed=settings.seed)
        guards.require_sign(sign)
    with clock("score"):
        scores = scorer.score(pool, _by_label(asked_view))
    with clock("select"):
        budget = min(budget, int(allowed.sum()))
        selection = selector.select(
            scores, budget, pool=pool, queries=_by_label(asked_view), allowed=allowed, seed=settings.seed
        )
    picks = guards.require_floor(pool.strata(), selection.indices, allowed.tolist(), settings.floor)
    outcome = Outcome(
        out=out,
        kept=len(selection.indices),
        pool=len(splits.pool),
        dropped=dict(sorted(Counter(reason.partition(":")[0] for reason in dropped.values()).items())),
        picks=dict(picks),
        diversity=round(guards.effective_diversity(pool.need_embeddings("report")[selection.indices]), 2),
        failures=len(looked.failures),
    )
    _write(out, looked, pool, scores, selection, dropped, splits, path)
    write_report(
        out / "report.html",
        Report(
            pool=pool,
            scores=scores,
            selection=selection,
            dropped=dropped,
            findings=tuple(findings),
            pairs=tuple(pairs),
            thumbnails=looked.thumbnails,
            failures=looked.failures,
            sign=sign,
            diversity=outcome.diversity,
            settings=_plain(settings),
        ),
    )
    _finish(out, outcome, sign, clock.seconds, selection)
    return outcome


def run_audit(
    path: Path,
    out: Path,
    config: DistillConfig | None = None,
    *,
    embeddings: Path | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """`guard distill audit`: write the review queue to `out`, and return the findings, most suspicious first."""
    settings = config or DistillConfig()
    splits = manifest.read(path)
    _claim(out, settings, path, None, embeddings)
    looked = _look(splits, (), path, path, settings, embeddings, out, progress)
    pool, _, _ = _described(looked, settings, out)
    findings = audit.audit(pool, settings.audit)
    ReviewQueue(out).write(findings)
    return findings


def _look(
    splits: manifest.Splits,
    asked: Sequence[Row],
    path: Path,
    query_path: Path,
    settings: DistillConfig,
    embeddings: Path | None,
    out: Path,
    progress: Progress | None,
) -> _Looked:
    if not settings.decode and embeddings is None:
        raise UsageError("Without decoding, embeddings must be given.", hint="Pass --embeddings FILE.")
    named = [(row, manifest.row_id(row, path.parent)) for row in splits.pool]
    asked_named = [(row, manifest.row_id(row, query_path.parent)) for row in asked]
    test_named = [(row, manifest.row_id(row, path.parent)) for row in splits.test]
    seen: dict[int, Clip] = {}
    failures: list[clips.Failure] = []
    if settings.decode:
        every = [row for row, _ in (*named, *asked_named, *test_named)]
        cache = FeatureCache(folder=out / "cache")
        found, failures = clips.read_clips(every, settings.clips, cache, workers=settings.workers, progress=progress)
        seen = {id(clip.row): clip for clip in found}
        failed = {id(failure.row) for failure in failures}
        named = [(row, name) for row, name in named if id(row) not in failed]
        asked_named = [(row, name) for row, name in asked_named if id(row) not in failed]
    if len(named) < 2:
        raise UsageError(f"{path}: fewer than two training rows could be looked at.", hint="See RUN/run.json.")
    categories = manifest.categories_of([row for row, _ in named], [row for row, _ in asked_named])

    def view(rows: Sequence[tuple[Row, str]]) -> FeatureView:
        names = [name for _, name in rows]
        if embeddings is not None:
            values = clips.read_embeddings(embeddings, names)
        else:
            values = np.stack([seen[id(row)].embedding for row, _ in rows])
        return manifest.view_of([row for row, _ in rows], names, categories, values)

    def prints(rows: Sequence[tuple[Row, str]]) -> tuple[Fingerprint, ...]:
        return tuple(
            Fingerprint(
                id=name,
                sha256=f"{row.sha256}#{row.start_seconds:g}-{row.end_seconds}",
                group=row.group,
                hashes=seen[id(row)].hashes if id(row) in seen else None,
            )
            for row, name in rows
        )

    return _Looked(
        pool=view(named),
        queries=view(asked_named) if asked_named else None,
        rows=tuple(row for row, _ in named),
        prints=prints(named),
        query_prints=prints(asked_named),
        test_prints=prints(test_named),
        thumbnails={name: seen[id(row)].thumbnail for row, name in (*named, *asked_named) if id(row) in seen},
        failures=tuple(failures),
    )


def _duplicates(looked: _Looked, settings: DistillConfig) -> tuple[dict[str, str], list[dedup.NearPair]]:
    """Return rows to leave out with reasons: look-alikes of test clips, later copies, copies that disagree on the
    label."""
    dropped = {
        o.id: f"overlaps with the test split: {o.test_id} ({o.by})"
        for o in leakage.overlaps(looked.prints, looked.test_prints)
    }
    if not settings.dedup:
        return dropped, []
    at = [i for i, p in enumerate(looked.prints) if p.hashes is not None]
    hashes = [h for i in at if (h := looked.prints[i].hashes) is not None]
    pairs = [replace(p, first=at[p.first], second=at[p.second]) for p in dedup.near_pairs(hashes)]
    # cuts of one video at different times look alike without being copies
    pairs = [p for p in pairs if not _other_segment(looked.rows[p.first], looked.rows[p.second])]
    strata = looked.pool.strata()
    for members in dedup.clusters(len(looked.prints), pairs):
        agree = len({strata[i] for i in members}) == 1
        for i in members[1:] if agree else members:
            first = looked.prints[members[0]].id
            reason = f"near-duplicate: of {first}" if agree else f"near-duplicates with different labels: as {first}"
            dropped.setdefault(looked.prints[i].id, reason)
    return dropped, pairs


def _other_segment(first: Row, second: Row) -> bool:
    return first.sha256 == second.sha256 and first.start_seconds != second.start_seconds


def _described(
    looked: _Looked, settings: DistillConfig, out: Path
) -> tuple[FeatureView, FeatureView | None, Callable[[FeatureView], FeatureView]]:
    head_config = replace(settings.warm_up, adam=settings.warm_up.adam or settings.scorer == "less")
    head = warm_up(looked.pool, head_config)
    pool = describe(head, looked.pool, folder=out / "gradients")
    asked = None if looked.queries is None else describe(head, looked.queries, training=False)

    def more(view: FeatureView) -> FeatureView:
        return describe(head, view)

    return pool, asked, more


def _by_label(queries: FeatureView | None) -> FeatureView | None:
    """Return the queries as one column per label set: balance between classes is what small budgets need most."""
    return None if queries is None else replace(queries, groups=queries.strata())


def _claim(out: Path, settings: DistillConfig, *inputs: Path | None) -> None:
    """Write `run.json` with the signature of the run, or refuse a folder that holds another one."""
    digest = hashlib.sha256(json.dumps(_plain(replace(settings, workers=1)), sort_keys=True).encode())
    for item in inputs:
        digest.update(b"\0" + (item.read_bytes() if item is not None else b""))
    signature = digest.hexdigest()
    path = out / "run.json"
    if path.exists():
        held = json.loads(path.read_text("utf-8"))
        if held["signature"] != signature:
            different = [k for k, v in _plain(settings).items() if held["config"].get(k) != v]
            raise ResumeMismatch(f"{out} holds a run with other {', '.join(different) or 'input files'}.")
        return
    content = {"signature": signature, "status": "running", "code_version": __version__, "config": _plain(settings)}
    atomic_write(path, json.dumps(content, indent=1).encode())


def _finish(
    out: Path,
    outcome: Outcome,
    sign: guards.SignCheck | None,
    seconds: dict[str, float],
    selection: Selection,
) -> None:
    path = out / "run.json"
    content = json.loads(path.read_text("utf-8"))
    plain = {k: v for k, v in asdict(outcome).items() if k != "out"}
    content.update(
        status="done",
        outcome=plain,
        sign_check=None if sign is None else asdict(sign),
        selector_facts=dict(selection.facts),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    atomic_write(path, json.dumps(content, indent=1).encode())


def _write(
    out: Path,
    looked: _Looked,
    pool: FeatureView,
    scores: ScoreMatrix,
    selection: Selection,
    dropped: dict[str, str],
    splits: manifest.Splits,
    path: Path,
) -> None:
    order = {int(i): rank for rank, i in enumerate(selection.indices, 1)}
    why = dict(zip(selection.indices.tolist(), selection.reasons, strict=True))
    facts = {
        "label": pool.strata(),
        "group": pool.groups,
        "kept_rank": [order.get(i, 0) for i in range(len(pool))],
        "reason": [why.get(i, dropped.get(name, "not selected")) for i, name in enumerate(pool.ids)],
        "loss": pool.need_aux("loss", "report").mean(axis=1).tolist(),
    }
    scorefile.write(out / "scores.parquet", scores, facts)
    kept = [
        {**manifest.record(looked.rows[i], pool.ids[i], out), "keep_rank": rank, "keep_reason": why[i]}
        for i, rank in order.items()
    ]
    # validation and test rows go along untouched, so that training needs this one file
    rest = (*splits.queries, *splits.test, *splits.others)
    untouched = [manifest.record(row, manifest.row_id(row, path.parent), out) for row in rest]
    manifest.write_jsonl(out / "selected.jsonl", [*kept, *untouched])


def _plain(settings: DistillConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start


def allowed_rows(view: FeatureView, findings: Sequence[Finding]) -> BoolArray:
    """Return bool [N]: the rows whose label nobody doubts."""
    return audit.trusted(view, findings)
