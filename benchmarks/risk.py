"""What routing by confidence buys, and whether the promised miss rate holds.

    python benchmarks/risk.py --data DIR [--splits 200]

1. Risk against coverage, AURC, and the accuracy of what the fast path keeps when 10, 20 or 30 % are escalated: by
   calibrated confidence (fitted without the clip's group), at random, and by one fixed threshold of 0.9 on raw scores.
   A video is right when the probability that it violates any category, 1 - prod(1 - p), is at one half or more exactly
   if it violates one of them.
2. Promised risk: thresholds as `calibrate` finds them on a random half of the groups, the miss rate on the other half,
   over many splits; and the same with groups drawn with replacement from all of them, where the true risk is known
   exactly. The promise of `expected` is about the mean over splits; that of `high_probability` is that at most a share
   delta is above alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np
from common import Array, Scored, interval, tell
from numpy.typing import NDArray

from fast_path.reliability import risk_coverage
from fast_path.risk import Cut, Guarantee, Target, block_threshold, clear_threshold, group_loss

ESCALATED = (0.1, 0.2, 0.3)
FIXED = 0.9
ALPHAS = (0.05, 0.1, 0.2, 0.3)
DELTA = 0.1


def answers(probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the confidence in the answer for each video, float64 [N] in [0.5, 1], and whether it is wrong.

    `probability` float [N, C], `truth` bool [N, C]; one column gives the answer for one category.
    """
    top = 1 - np.prod(1 - probability.astype(np.float64), axis=1)
    return np.maximum(top, 1 - top), (top >= 0.5) != truth.any(1)


def kept_accuracy(confidence: Array, wrong: NDArray[np.bool_], escalated: float) -> float:
    """Return the accuracy of the most confident part; ties are broken by order in the manifest."""
    kept = np.argsort(-confidence, kind="stable")[: max(1, round(len(wrong) * (1 - escalated)))]
    return float(1 - wrong[kept].mean())


def routing(
    raw: NDArray[np.float32], mapped: NDArray[np.float32], truth: NDArray[np.bool_], groups: Sequence[str], draws: int
) -> dict[str, Any]:
    """Return the curve and the accuracies of one question."""
    confidence, wrong = answers(mapped, truth)
    curve = risk_coverage(confidence, wrong)
    resampled: dict[str, list[float]] = {
        "aurc": [],
        **{str(e): [] for e in ESCALATED},
        **{f"gain {e}": [] for e in ESCALATED},
    }
    for drawn in common.group_draws(groups, draws):
        resampled["aurc"].append(risk_coverage(confidence[drawn], wrong[drawn]).aurc)
        for share in ESCALATED:
            accuracy = kept_accuracy(confidence[drawn], wrong[drawn], share)
            resampled[str(share)].append(accuracy)
            resampled[f"gain {share}"].append(accuracy - float(1 - wrong[drawn].mean()))
    highest = raw.max(1, keepdims=True)
    fixed_confidence, fixed_wrong = answers(highest, truth)
    sure = fixed_confidence >= FIXED
    escalated = float(1 - sure.mean())
    return {
        "clips": len(wrong),
        "errors": int(wrong.sum()),
        "aurc": curve.aurc,
        "aurc_interval": interval(resampled["aurc"]),
        "aurc_random": float(wrong.mean()),
        "excess_aurc": curve.excess_aurc,
        "accuracy_at_escalation": {
            str(share): {
                "kept": kept_accuracy(confidence, wrong, share),
                "interval": interval(resampled[str(share)]),
                "random": float(1 - wrong.mean()),
                "gain_over_random_interval": interval(resampled[f"gain {share}"]),
            }
            for share in ESCALATED
        },
        "fixed_threshold": {
            "threshold": FIXED,
            "escalated": escalated,
            "kept": float(1 - fixed_wrong[sure].mean()) if sure.any() else None,
            "ours_at_the_same_escalation": kept_accuracy(confidence, wrong, escalated),
        },
        "curve": {"coverage": curve.coverage.tolist(), "risk": curve.risk.tolist()},
    }


def thresholds(found: Scored, chosen: NDArray[np.int64], names: Sequence[str], target: Target) -> list[tuple[Cut, Cut]]:
    """Return what `calibrate` proves for each category: where its two thresholds overlap it only gets safer.

    On raw scores: a strictly increasing map, which is all that `calibrate` adds, changes no rule.
    """
    made = []
    for c in range(len(found.categories)):
        cuts = []
        for label, choose in ((1, clear_threshold), (0, block_threshold)):
            use = found.labels[chosen, c] == label
            cuts.append(choose(found.scores[chosen[use], c], [n for n, u in zip(names, use, strict=True) if u], target))
        made.append((cuts[0], cuts[1]))
    return made


def losses(cuts: Sequence[tuple[Cut, Cut]], found: Scored, chosen: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return miss rate and false-block rate of each category on the chosen clips, as means over groups."""
    groups = np.asarray(found.groups)[chosen]
    result: dict[str, dict[str, float]] = {"miss": {}, "block": {}}
    for c, category in enumerate(found.categories):
        for name, label, cut in (("miss", 1, cuts[c][0].threshold), ("block", 0, cuts[c][1].threshold)):
            use = found.labels[chosen, c] == label
            score = found.scores[chosen[use], c]
            never = np.zeros(len(score), bool)
            lost = never if cut is None else score < cut if label else score >= cut
            total, count = group_loss(lost, groups[use].tolist())
            result[name][category] = total / count if count else float("nan")
    return result


def escalated(cuts: Sequence[tuple[Cut, Cut]], scores: NDArray[np.float32]) -> float:
    """Return the share of clips that are neither blocked by a category nor cleared by all."""
    low = np.array([-np.inf if clear.threshold is None else clear.threshold for clear, _ in cuts])
    high = np.array([np.inf if block.threshold is None else block.threshold for _, block in cuts])
    return float(np.mean(np.any(scores >= low, 1) & ~np.any(scores >= high, 1)))


def promise(
    found: Scored, alpha: float, guarantee: Guarantee, splits: int, *, replace: bool, size: int | None = None
) -> dict[str, Any]:
    """Return how often and on average the promised risk is exceeded.

    Without `replace`: calibrate on half of the groups and measure on the others. With it: calibrate on `size` groups
    drawn from all, and measure on all: the distribution that was drawn from.
    """
    names, member = np.unique(np.asarray(found.groups), return_inverse=True)
    members = [np.flatnonzero(member == index) for index in range(len(names))]
    everything = np.arange(len(found.rows))
    risks: dict[str, dict[str, list[float]]] = {k: {c: [] for c in found.categories} for k in ("miss", "block")}
    proven = dict.fromkeys(found.categories, 0)
    escalation = []
    for split in range(splits):
        rng = np.random.default_rng([7, split])
        if replace:
            drawn = rng.integers(0, len(names), size or len(names))
            test = everything
        else:
            order = rng.permutation(len(names))
            drawn = order[: len(names) // 2]
            test = np.concatenate([members[g] for g in order[len(names) // 2 :]])
        chosen = np.concatenate([members[g] for g in drawn])
        labels = np.concatenate([[f"draw-{place}"] * len(members[g]) for place, g in enumerate(drawn)]).tolist()
        cuts = thresholds(found, chosen, labels, Target(alpha=alpha, guarantee=guarantee, delta=DELTA))
        escalation.append(escalated(cuts, found.scores[test]))
        for kind, by in losses(cuts, found, test).items():
            for category, value in by.items():
                risks[kind][category].append(value)
        for category, (clear, _) in zip(found.categories, cuts, strict=True):
            proven[category] += clear.threshold is not None
    tell(f"{guarantee} {alpha} {'drawn' if replace else 'halves'}: done")
    return {
        "escalated_mean": float(np.mean(escalation)),
        **{
            category: {
                "feasible_share": proven[category] / splits,
                **{
                    f"{kind}_{name}": value
                    for kind in ("miss", "block")
                    for name, value in summary(risks[kind][category], alpha).items()
                },
            }
            for category in found.categories
        },
    }


def summary(values: Sequence[float], alpha: float) -> dict[str, float | int | None]:
    finite = np.asarray([v for v in values if np.isfinite(v)])
    if not len(finite):
        return {"mean": None, "share_above": None, "splits": 0}
    return {"mean": float(finite.mean()), "share_above": float(np.mean(finite > alpha + 1e-9)), "splits": len(finite)}


def plots(options: Any, questions: dict[str, Any], promises: dict[str, Any], found: Scored) -> None:
    lines = {
        name: ([0.0, *q["curve"]["coverage"]], [q["curve"]["risk"][0], *q["curve"]["risk"]])
        for name, q in questions.items()
    }
    fixed = questions["any"]["fixed_threshold"]
    if fixed["kept"] is not None:
        lines["any, fixed threshold 0.9"] = ([1 - fixed["escalated"]], [1 - fixed["kept"]])
    lines["any, random routing"] = ([0.0, 1.0], [questions["any"]["aurc_random"]] * 2)
    labels = ("share of videos that the fast path keeps", "share of wrong answers among them")
    common.line_chart(options.plots / "risk_coverage.svg", "Risk against coverage, validation split", labels, lines)
    measured = {
        f"{guarantee}, {category}": (
            list(ALPHAS),
            [promises[guarantee][str(a)][category]["miss_mean"] or 0.0 for a in ALPHAS],
        )
        for guarantee in promises
        for category in found.categories
    }
    measured["promised"] = (list(ALPHAS), list(ALPHAS))
    labels = ("promised miss rate", "mean miss rate over the splits")
    common.line_chart(options.plots / "miss_rate.svg", "Miss rate: promised and measured", labels, measured)


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, "risk")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--size", type=int, default=200, help="groups per draw with replacement")
    options = parser.parse_args(argv)
    detector = common.build_detector(options)
    with common.Scorer(detector, options.cache) as scorer:
        found = scorer.table(common.rows_of(options))
    mapped = common.cross_calibrated(found)
    questions = {"any": routing(found.scores, mapped, found.truth, found.groups, options.draws)}
    for c, category in enumerate(found.categories):
        one = slice(c, c + 1)
        questions[category] = routing(
            found.scores[:, one], mapped[:, one], found.truth[:, one], found.groups, options.draws
        )
    guarantees: tuple[Guarantee, ...] = ("expected", "high_probability")
    halves = {g: {str(a): promise(found, a, g, options.splits, replace=False) for a in ALPHAS} for g in guarantees}
    drawn = {
        g: {str(a): promise(found, a, g, options.splits, replace=True, size=options.size) for a in ALPHAS}
        for g in guarantees
    }
    violating = {
        c: len({g for g, y in zip(found.groups, found.truth[:, i], strict=True) if y})
        for i, c in enumerate(found.categories)
    }
    result = {
        **common.about(detector, found),
        "routing": questions,
        "promised_risk": {
            "splits": options.splits,
            "delta": DELTA,
            "groups_with_violations": violating,
            "halves": halves,
            "drawn_with_replacement": {"groups_per_draw": options.size, **drawn},
        },
    }
    common.save(options.out, result)
    plots(options, questions, halves, found)


if __name__ == "__main__":
    main()
