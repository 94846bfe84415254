"""What a run leaves behind: the kept manifest, what was left out and why, the scores, the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_filter import manifest, scorefile
from data_filter.audit import Finding
from data_filter.clips import Failure
from data_filter.dedup import NearPair
from data_filter.guards import SignCheck
from data_filter.look import DistillConfig, Looked
from data_filter.manifest import Splits
from data_filter.report import Report, write_report
from data_filter.runfolder import plain
from data_filter.types import FeatureView, ScoreMatrix, Selection
from fast_path.dataset import Row


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Kept:
    """The pool, its scores, and what was chosen from it."""

    pool: FeatureView
    rows: tuple[Row, ...]
    """Manifest rows of the pool, in its order."""
    scores: ScoreMatrix
    selection: Selection
    left_out: dict[str, str]
    """Why rows were left out before the choice, by id; some of them are no longer in the pool."""


def write(out: Path, kept: Kept, splits: Splits, failures: Sequence[Failure], path: Path) -> None:
    """Write `scores.parquet`, `selected.jsonl`, `left_out.jsonl` and `failures.jsonl`."""
    order = {int(i): rank for rank, i in enumerate(kept.selection.indices, 1)}
    why = dict(zip(kept.selection.indices.tolist(), kept.selection.reasons, strict=True))
    pool = kept.pool
    facts = {
        "label": pool.strata(),
        "group": pool.groups,
        "kept_rank": [order.get(i, 0) for i in range(len(pool))],
        "reason": [why.get(i, kept.left_out.get(name, "not selected")) for i, name in enumerate(pool.ids)],
        "loss": pool.need_aux("loss", "report").mean(axis=1).tolist(),
    }
    scorefile.write(out / "scores.parquet", kept.scores, facts)
    chosen = [
        {**manifest.record(kept.rows[i], pool.ids[i], out), "keep_rank": rank, "keep_reason": why[i]}
        for i, rank in order.items()
    ]
    # validation and test rows go along untouched, so that training needs this one file
    rest = (*splits.queries, *splits.test, *splits.others)
    untouched = [manifest.record(row, manifest.row_id(row, path.parent), out) for row in rest]
    manifest.write_jsonl(out / "left_out.jsonl", [{"id": i, "reason": r} for i, r in sorted(kept.left_out.items())])
    write_failures(out, failures)
    manifest.write_jsonl(out / "selected.jsonl", [*chosen, *untouched])


def write_failures(out: Path, failures: Sequence[Failure]) -> None:
    """Write `failures.jsonl`: rows that could not be looked at, which are neither kept nor judged."""
    lines = [{"path": str(f.row.path), "split": f.row.split, "code": f.code, "message": f.message} for f in failures]
    manifest.write_jsonl(out / "failures.jsonl", lines)


def report(
    out: Path,
    kept: Kept,
    looked: Looked,
    findings: Sequence[Finding],
    pairs: Sequence[NearPair],
    sign: SignCheck | None,
    settings: DistillConfig,
    emptied: Mapping[str, int],
) -> None:
    """Write `report.html`."""
    content = Report(
        pool=kept.pool,
        sources=tuple(str(row.extra.get("source") or row.group) for row in kept.rows),
        scores=kept.scores,
        selection=kept.selection,
        dropped=kept.left_out,
        findings=tuple(findings),
        pairs=tuple(pairs),
        pictures=looked.pictures,
        failures=looked.failures,
        sign=sign,
        emptied=dict(emptied),
        decoded=settings.decode,
        settings=plain(settings),
    )
    write_report(out / "report.html", content)
