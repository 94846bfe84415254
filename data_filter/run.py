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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_filter import annotate, audit, clips, guards, leakage, manifest, scorefile
from data_filter.annotate import AnnotateConfig
from data_filter.audit import Finding
from data_filter.look import DistillConfig, Looked, Progress, duplicates, look
from data_filter.report import Report, write_report
from data_filter.review import ReviewQueue
from data_filter.shards import atomic_write
from data_filter.types import FeatureView, ScoreMatrix, Selection
from data_filter.warmup import describe, warm_up
from fast_path import dataset
from fast_path.features import FeatureCache
from guard import plugins
from guard._version import __version__
from guard.errors import ResumeMismatch

SIGN_QUERIES = 64  # planted copies of more would say the same for more time


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
        looked = look(splits, asked, path, queries or path, settings, embeddings, out, progress)
    leakage.refuse(looked.query_prints, looked.test_prints)
    with clock("dedup"):
        dropped, pairs = duplicates(looked, settings)
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
    looked = look(splits, (), path, path, settings, embeddings, out, progress)
    pool, _, _ = _described(looked, settings, out)
    findings = audit.audit(pool, settings.audit)
    ReviewQueue(out).write(findings)
    return findings


def run_annotate(
    path: Path,
    out: Path,
    count: int,
    config: AnnotateConfig | None = None,
    *,
    settings: DistillConfig | None = None,
    embeddings: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """`guard distill annotate`: write `annotate.jsonl`, the clips that a person should label, the most useful first.

    Labels in the manifest are ignored; `test` rows are never offered. Each line is a manifest line with `pick`,
    `reach`.
    """
    wanted = settings or DistillConfig()
    rows = tuple(row for row in dataset.read_manifest(path) if row.split != "test")
    names = [manifest.row_id(row, path.parent) for row in rows]
    failures: list[clips.Failure] = []
    if embeddings is None:
        cache = FeatureCache(folder=out / "cache")
        seen, failures = clips.read_clips(rows, wanted.clips, cache, workers=wanted.workers, progress=progress)
        rows = tuple(clip.row for clip in seen)
        names = [manifest.row_id(row, path.parent) for row in rows]
        values = np.stack([clip.embedding for clip in seen]) if seen else np.zeros((0, 1), dtype=np.float32)
    else:
        values = clips.read_embeddings(embeddings, names)
    picks = annotate.pick(values, count, config)
    lines = [
        {**manifest.record(rows[i], names[i], out), "pick": rank, "reach": round(float(reach), 4)}
        for rank, (i, reach) in enumerate(zip(picks.indices, picks.reach, strict=True), 1)
    ]
    manifest.write_jsonl(out / "annotate.jsonl", lines)
    manifest.write_jsonl(
        out / "failures.jsonl", [{"path": str(f.row.path), "code": f.code, "message": f.message} for f in failures]
    )
    return lines


def _described(
    looked: Looked, settings: DistillConfig, out: Path
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
    looked: Looked,
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
