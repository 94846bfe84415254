"""Label audit: which labels are likely wrong, what they should be, and on what evidence. A queue for a person;
nothing is deleted.

Suspicion joins detectors that need no queries (mean loss over checkpoints, disagreement of neighbours, confident
learning), each as a rank, because their scales differ. The suggested label is a vote of the nearest neighbours whose
own label is not suspect, weighted by likeness (the idea of InfFeed, arXiv 2402.14702; its steps are ours), backed by
the out-of-fold probability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data_filter import neighbours
from data_filter.types import BENIGN, BoolArray, FeatureView, Float64Array, Int64Array
from guard import plugins
from guard.types import Float32Array, require

DETECTORS = ("mean_loss", "knn_disagreement", "confident_learning")
"""Joined by rank: with whole clips mislabelled no single one held up in every case (docs/distill.md), their mean
did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Settings."""

    detectors: tuple[str, ...] = DETECTORS
    """Scorers without queries; high = ordinary."""
    k: int = 10
    """Neighbours that vote."""
    most: float = 0.15
    """At most this share of the rows is doubted."""
    most_of_label: float = 0.25
    """At most this share of the rows of one label set is flagged, so 0 of 3 and 4 of 16: a rare event has few
    neighbours of its own kind, and an audit alone must not wipe it out."""
    threshold: float = 0.5
    """A row is doubted where the vote for another label minus that for its own reaches this, and it is among the
    suspicious."""

    def __post_init__(self) -> None:
        require(0 < self.most <= 1, "most", "in (0, 1]", self.most)
        require(0 < self.most_of_label <= 1, "most_of_label", "in (0, 1]", self.most_of_label)
        require(len(self.detectors) > 0, "detectors", "at least one", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One neighbour that speaks for another label."""

    id: str
    label: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the queue, most suspicious first."""

    rank: int
    id: str
    label: str
    """As given: a category, several joined by `+`, or `benign`."""
    suggested: str
    suspicion: float
    """In [0, 1]: mean rank over the detectors; 1 is the most suspicious row of all."""
    support: float
    """In [-1, 1]: the neighbours' vote for the suggestion minus that for the label given."""
    votes: dict[str, float]
    """Suspicion by each detector."""
    evidence: tuple[Evidence, ...]
    doubted: bool
    """Whether a person should look: the row is in the queue."""
    flagged: bool
    """Whether a run that drops doubtful rows leaves this one out; only doubted rows are."""


def suspicion(view: FeatureView, detectors: Sequence[str] = DETECTORS) -> tuple[Float64Array, dict[str, Float64Array]]:
    """Return how suspicious each label is, float64 [N] in [0, 1], and the same by detector."""
    parts: dict[str, Float64Array] = {}
    for name in detectors:
        scores = plugins.load("scorer", name).score(view).values[:, 0]
        _, which, count = np.unique(-scores, return_inverse=True, return_counts=True)
        parts[name] = (np.cumsum(count) - (count + 1) / 2)[which] / max(len(view) - 1, 1)
    return np.mean(list(parts.values()), axis=0), parts


def audit(view: FeatureView, config: AuditConfig | None = None) -> list[Finding]:
    """Return a finding for every row, most suspicious first. Needs embeddings, `loss` and `probability`."""
    settings = config or AuditConfig()
    doubt, parts = suspicion(view, settings.detectors)
    k = min(settings.k, len(view) - 1)
    near = neighbours.nearest(view.need_embeddings("audit"), k, groups=view.groups)
    vote = _trusted_vote(near, view, doubt)
    suggested, support = _suggest(view, vote)
    order = np.argsort(-doubt, kind="stable")
    allowed = np.zeros(len(view), dtype=np.bool_)
    allowed[order[: int(settings.most * len(view))]] = True
    doubted = allowed & (support >= settings.threshold)
    strata = view.strata()
    flagged = _capped(doubted, order, strata, settings.most_of_label)
    return [
        Finding(
            rank=rank,
            id=view.ids[i],
            label=strata[i],
            suggested=suggested[i],
            suspicion=round(float(doubt[i]), 4),
            support=round(float(support[i]), 4),
            votes={name: round(float(values[i]), 4) for name, values in parts.items()},
            evidence=_evidence(near, view, strata, int(i)) if doubted[i] else (),
            doubted=bool(doubted[i]),
            flagged=bool(flagged[i]),
        )
        for rank, i in enumerate(order, 1)
    ]


def _capped(doubted: BoolArray, order: Int64Array, strata: Sequence[str], most: float) -> BoolArray:
    """Return `doubted` [N] with at most this share of each label set left, the most suspicious (first in `order`)."""
    left = {name: int(most * count) for name, count in Counter(strata).items()}
    flagged = np.zeros(len(doubted), dtype=np.bool_)
    for i in order[doubted[order]]:
        flagged[i] = left[strata[i]] > 0
        left[strata[i]] -= 1
    return flagged


def trusted(view: FeatureView, findings: Sequence[Finding]) -> BoolArray:
    """Return bool [N]: the rows that the filter may keep."""
    out = {finding.id for finding in findings if finding.flagged}
    return np.array([name not in out for name in view.ids], dtype=np.bool_)


def _trusted_vote(near: neighbours.Neighbours, view: FeatureView, doubt: Float64Array) -> Float32Array:
    """Return the weighted share of each category among the neighbours, [N, C]: near and unsuspected ones count for
    more."""
    at = np.maximum(near.indices, 0)
    weight = near.found * np.maximum(near.cosine, 1e-3) * (1.0 - 0.9 * doubt[at])
    total = weight.sum(axis=1, keepdims=True)
    held = (view.targets[at] * weight[:, :, None]).sum(axis=1)
    found: Float32Array = np.where(total > 0, held / np.maximum(total, 1e-9), view.targets).astype(np.float32)
    return found


def _suggest(view: FeatureView, vote: Float32Array) -> tuple[list[str], Float64Array]:
    """Return the label that vote and out-of-fold probability favour, and how much more than the one given."""
    belief = vote if "probability" not in view.aux else 0.5 * (vote + view.need_aux("probability", "audit"))
    if view.loss == "softmax":
        chosen = np.eye(belief.shape[1], dtype=np.float32)[belief.argmax(axis=1)]
    else:
        chosen = (belief >= 0.5).astype(np.float32)
        # a row whose label is far from benign but from no single category either keeps its strongest one
        unsure = (chosen.sum(axis=1) == 0) & (belief.sum(axis=1) >= 0.5)
        chosen[np.flatnonzero(unsure), belief[unsure].argmax(axis=1)] = 1.0
    differs = chosen != view.targets
    # for each category in dispute: belief in the suggestion minus belief in what is given
    gain = np.where(chosen > view.targets, 2 * belief - 1, 1 - 2 * belief)
    support = np.where(differs.any(axis=1), np.where(differs, gain, -np.inf).max(axis=1), -1.0)
    return [view.stratum(row) for row in chosen], np.asarray(support, dtype=np.float64)


def _evidence(
    near: neighbours.Neighbours, view: FeatureView, strata: Sequence[str], i: int, most: int = 5
) -> tuple[Evidence, ...]:
    rows = [(int(j), float(c)) for j, c in zip(near.indices[i], near.cosine[i], strict=True) if j >= 0]
    other = [(j, c) for j, c in rows if strata[j] != strata[i]][:most]
    return tuple(Evidence(id=view.ids[j], label=strata[j] or BENIGN, cosine=round(c, 4)) for j, c in other)


def as_record(finding: Finding) -> dict[str, object]:
    """Return a finding as JSON values."""
    return asdict(finding)
