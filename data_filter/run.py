"""`guard distill`: dedup, audit, score, select, write.

    distill(manifest, keep="2.4%", out=RUN)  ->  RUN/selected.jsonl   the kept manifest, ready for `guard train fast`
                                                 RUN/left_out.jsonl   what was left out before the choice, and why
                                                 RUN/scores.parquet   every row with its scores and what became of it
                                                 RUN/audit/           the review queue
                                                 RUN/report.html, RUN/run.json

A killed run goes on where it was: looked-at clips and gradient shards are kept, and the rest is quick and
deterministic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data_filter import audit, guards, leakage, manifest, results, scorefile
from data_filter.audit import Finding
from data_filter.dedup import NearPair
from data_filter.guards import SignCheck
from data_filter.interfaces import Scorer, Selector
from data_filter.look import DistillConfig, Inputs, Looked, Progress, duplicates, leaks, look
from data_filter.manifest import Splits
from data_filter.review import Decision, ReviewQueue, apply
from data_filter.runfolder import RunFolder
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection
from data_filter.warmup import WarmUp, describe, warm_up
from fast_path import dataset
from guard import plugins
from guard.errors import UsageError

SIGN_QUERIES = 64  # planted copies of more would say the same for more time


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did."""

    out: Path
    kept: int
    asked: int
    """Rows that `keep` stands for; more than `kept` where fewer were left to choose from."""
    pool: int
    dropped: dict[str, int]
    """Rows left out before selection, by reason."""
    picks: dict[str, int]
    """Kept rows by label set."""
    emptied: dict[str, int]
    """Label sets of which nothing was kept, with the rows that they had."""
    doubted: int
    """Labels that wait in the queue for a person, left out or not."""
    diversity: float
    """How many different directions the kept embeddings have (Vendi score)."""
    failures: int
    """Rows that could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Judged:
    """The pool with its gradients, and what is left out of it before there is a choice."""

    pool: FeatureView
    queries: FeatureView | None
    """With one column per label set: balance between classes is what small budgets need most."""
    head: WarmUp
    findings: tuple[Finding, ...]
    pairs: tuple[NearPair, ...]
    dropped: dict[str, str]
    """Reasons by id."""

    @property
    def allowed(self) -> BoolArray:
        """bool [N]: the rows that may be kept."""
        return np.array([name not in self.dropped for name in self.pool.ids], dtype=np.bool_)


def distill(
    path: Path,
    out: Path,
    config: DistillConfig | None = None,
    *,
    queries: Path | None = None,
    embeddings: Path | None = None,
    decisions: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Distil the `train` rows of a manifest.

    Args:
        path: Manifest (JSONL or CSV); its `val` rows are the queries unless `queries` is given, its `test` rows are
            kept out.
        out: Run directory. One that holds a run with other settings is refused.
        config: Settings.
        queries: Another manifest, all of whose rows are queries.
        embeddings: `.npz` with `ids` and `embeddings` for every pool and query row; otherwise the fast path's
            encoder makes them.
        decisions: Folder of a review queue; what a person decided there is applied, and not doubted again.
        cache: Folder of what was read of clips; several runs may share it.
        progress: Called with the stage, how much is done, and how much there is.

    Raises:
        UsageError: a guard refused (leaking queries, wrong sign, a group under its floor), or a setting cannot be.
        ResumeMismatch: `out` holds a run with other settings.
    """
    settings = config or DistillConfig()
    inputs = Inputs(manifest=path, queries=queries, embeddings=embeddings, decisions=decisions, cache=cache)
    scorefile.require_parquet()
    scorer: Scorer = plugins.load("scorer", settings.scorer, **settings.scorer_settings)
    selector: Selector = plugins.load("selector", settings.selector, **settings.selector_settings)
    splits = manifest.read(path)
    asked = manifest.parse_keep(settings.keep, len(splits.pool))
    if queries is None and not splits.queries and scorer.uses_queries:  # before there is a folder to go on with
        raise UsageError(
            f"The scorer {settings.scorer!r} compares with queries, and {path.name} has no rows of the split 'val'.",
            hint="Add rows of the split val, or pass --queries FILE.",
        )
    folder = RunFolder(out, settings, inputs)
    with folder.refusals():
        return _distill(scorer, selector, splits, asked, settings, inputs, folder, progress)


def _distill(
    scorer: Scorer,
    selector: Selector,
    splits: Splits,
    asked: int,
    settings: DistillConfig,
    inputs: Inputs,
    folder: RunFolder,
    progress: Progress | None,
) -> Outcome:
    decided = {} if inputs.decisions is None else ReviewQueue(inputs.decisions).decisions()
    settled, refused = _settle(splits, inputs, decided)
    query_rows = splits.queries if inputs.queries is None else tuple(dataset.read_manifest(inputs.queries))
    with folder.stage("look"):
        looked = look(settled, query_rows, inputs, settings, folder.out, progress)
        leakage.refuse(looked.query_prints, looked.test_prints)
        leaking = leaks(looked)
        looked = looked.without(leaking) if leaking else looked
    judged = _judge(looked, settings, decided, folder)
    sign = _sign(scorer, judged, settings)
    scores, selection = _choose(scorer, selector, judged, asked, settings, folder)
    picks = guards.require_floor(judged.pool.strata(), selection.indices, judged.allowed.tolist(), settings.floor)
    left_out = {**refused, **leaking, **judged.dropped}
    outcome = Outcome(
        out=folder.out,
        kept=len(selection.indices),
        asked=asked,
        pool=len(splits.pool),
        dropped=_by_kind(left_out),
        picks=dict(picks),
        emptied=dict(guards.emptied(judged.pool.strata(), selection.indices)),
        doubted=sum(finding.doubted for finding in judged.findings),
        diversity=round(guards.effective_diversity(judged.pool.need_embeddings("report")[selection.indices]), 2),
        failures=len(looked.failures),
    )
    kept = results.Kept(pool=judged.pool, rows=looked.rows, scores=scores, selection=selection, left_out=left_out)
    results.write(folder.out, kept, splits, looked.failures, inputs.manifest)
    results.report(folder.out, kept, looked, judged.findings, judged.pairs, sign, settings, outcome.emptied)
    plain = {name: value for name, value in asdict(outcome).items() if name != "out"}
    folder.done(outcome=plain, sign_check=None if sign is None else asdict(sign), selector_facts=dict(selection.facts))
    return outcome


def run_audit(
    path: Path,
    out: Path,
    config: DistillConfig | None = None,
    *,
    embeddings: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """`guard distill audit`: write the review queue to `out`, and return the findings, most suspicious first."""
    settings = config or DistillConfig()
    splits = manifest.read(path)
    inputs = Inputs(manifest=path, embeddings=embeddings, cache=cache)
    folder = RunFolder(out, settings, inputs)
    with folder.refusals():
        with folder.stage("look"):
            looked = look(splits, (), inputs, settings, out, progress)
        head = warm_up(looked.pool, settings.warm_up)
        pool = describe(head, looked.pool, folder=out / "gradients")
        findings = audit.audit(pool, settings.audit)
        ReviewQueue(out).write(findings)
        results.write_failures(out, looked.failures)
        folder.done(rows=len(findings), doubted=sum(f.doubted for f in findings), failures=len(looked.failures))
    return findings


def _settle(splits: Splits, inputs: Inputs, decided: dict[str, Decision]) -> tuple[Splits, dict[str, str]]:
    """Return the splits with a person's decisions applied to the pool, and the rows dropped by them."""
    names = [manifest.row_id(row, inputs.manifest.parent) for row in splits.pool]
    rows, refused = apply(splits.pool, names, decided)
    return replace(splits, pool=rows), refused


def _judge(looked: Looked, settings: DistillConfig, decided: Collection[str], folder: RunFolder) -> Judged:
    """Find copies, train the head, collect gradients, and doubt labels."""
    with folder.stage("dedup"):
        dropped, pairs = duplicates(looked) if settings.dedup else ({}, [])
    with folder.stage("gradients"):
        needs_adam = settings.warm_up.adam or settings.scorer == "less"
        head = warm_up(looked.pool, replace(settings.warm_up, adam=needs_adam))
        pool = describe(head, looked.pool, folder=folder.out / "gradients")
        asked = None if looked.queries is None else describe(head, looked.queries, training=False)
    with folder.stage("audit"):
        findings = [] if settings.audit is None else audit.audit(pool, settings.audit)
        for finding in findings:
            if settings.drop_doubtful and finding.flagged and finding.id not in decided:
                dropped.setdefault(finding.id, f"label in doubt: {finding.label} or {finding.suggested}")
        ReviewQueue(folder.out / "audit").write(findings)
    return Judged(
        pool=pool,
        queries=None if asked is None else replace(asked, groups=asked.strata()),
        head=head,
        findings=tuple(findings),
        pairs=tuple(pairs),
        dropped=dropped,
    )


def _sign(scorer: Scorer, judged: Judged, settings: DistillConfig) -> SignCheck | None:
    if not scorer.signed or judged.queries is None:
        return None
    some = np.random.default_rng(settings.seed).permutation(len(judged.queries))[:SIGN_QUERIES]

    def more(view: FeatureView) -> FeatureView:
        return describe(judged.head, view)

    check = guards.sign_check(scorer, judged.pool, judged.queries.take(np.sort(some)), more, seed=settings.seed)
    guards.require_sign(check)
    return check


def _choose(
    scorer: Scorer, selector: Selector, judged: Judged, asked: int, settings: DistillConfig, folder: RunFolder
) -> tuple[ScoreMatrix, Selection]:
    allowed = judged.allowed
    if not allowed.any():
        reasons = ", ".join(f"{count} {why}" for why, count in _by_kind(judged.dropped).items())
        raise UsageError(f"All {len(allowed)} rows were left out before there was a choice: {reasons}.")
    with folder.stage("score"):
        scores = scorer.score(judged.pool, judged.queries)
    with folder.stage("select"):
        budget = min(asked, int(allowed.sum()))
        selection = selector.select(
            scores, budget, pool=judged.pool, queries=judged.queries, allowed=allowed, seed=settings.seed
        )
    return scores, selection


def _by_kind(reasons: Mapping[str, str]) -> dict[str, int]:
    return dict(sorted(Counter(reason.partition(":")[0] for reason in reasons.values()).items()))
