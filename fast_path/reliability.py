"""How far probabilities can be taken at their word: calibration error, Brier score, and the risk-coverage curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guard.types import Float64Array, require

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """Error of the most confident part of the clips, for every size of that part."""

    coverage: Float64Array
    """float64 [K], increasing, in (0, 1]: share of the clips that are accepted. Equal confidences enter together."""
    risk: Float64Array
    """float64 [K] in [0, 1]: share of wrong answers among the accepted."""
    aurc: float
    """Mean risk over all numbers of accepted clips: area under the curve; lower is better."""
    excess_aurc: float
    """`aurc` less that of the best possible order of the same answers (Geifman et al., arXiv 1805.08206)."""


def brier(probability: Float64Array, truth: BoolArray) -> float:
    """Return the mean squared distance of probability [N] to truth [N]; NaN for no clips."""
    return float(np.mean((probability - truth) ** 2)) if len(truth) else float("nan")


def expected_calibration_error(probability: Float64Array, truth: BoolArray, *, bins: int = 10) -> float:
    """Return the mean distance between probability and frequency over bins of equal count.

    Bins of equal count, because few clips have high scores and bins of equal width would be empty. NaN for no clips.
    """
    require(bins >= 1, "bins", "at least 1", bins)
    if not len(truth):
        return float("nan")
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(float(np.mean(probability[part]) - np.mean(truth[part]))) for part in parts]
    return sum(gaps) / len(truth)


def risk_coverage(confidence: Float64Array, wrong: BoolArray) -> RiskCoverage:
    """Return the risk-coverage curve of answers with a confidence [N] and whether each is `wrong` [N]; N at least 1."""
    require(len(wrong) > 0 and len(wrong) == len(confidence), "wrong", "one per confidence", len(wrong))
    order = np.argsort(-confidence, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(confidence[order])), len(order) - 1]
    accepted = ends + 1
    risk = np.cumsum(wrong[order])[ends] / accepted
    # within a tie any order is possible: each clip of it counts with the risk at the tie's end
    aurc = float(np.sum(np.diff(np.r_[0, accepted]) * risk) / len(order))
    best = np.cumsum(np.sort(wrong)) / np.arange(1, len(wrong) + 1)
    return RiskCoverage(coverage=accepted / len(order), risk=risk, aurc=aurc, excess_aurc=aurc - float(np.mean(best)))
