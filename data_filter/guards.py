"""Checks that stop a filter run before its numbers mislead: leakage, sign, floors, diversity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_filter.interfaces import Scorer
from data_filter.types import FeatureView, Float64Array, GradientView, Int64Array
from guard.errors import UsageError
from guard.types import Float32Array

SIGN_AUC = 0.95
"""What a scorer that claims a sign must reach on planted examples."""

SIGN_ROWS = 4096
"""Ordinary rows that planted ones are compared with: rows are read into memory here, and more would tell no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCheck:
    """How a scorer ranks examples whose effect is known beforehand; AUCs in [0, 1], within each query's own column."""

    scorer: str
    helpful: float
    """AUC of clean duplicates of queries over ordinary training rows. Ordinary rows of the same class may rightly
    compete."""
    harmful: float
    """AUC of ordinary training rows over copies of queries with a wrong label."""
    pairs: float
    """Share of queries whose clean duplicate scores above its wrongly labelled copy."""
    mean_clean: float
    """Mean score of the clean duplicates: above zero where the sign is right."""
    mean_wrong: float
    """Mean score of the wrong copies: below zero where the sign is right."""

    @property
    def passed(self) -> bool:
        """Whether the sign is right: pairs in order, and each kind on its side of zero."""
        return self.pairs >= SIGN_AUC and self.mean_wrong < 0 < self.mean_clean


def sign_check(
    scorer: Scorer,
    train: FeatureView,
    queries: FeatureView,
    describe: Callable[[FeatureView], FeatureView],
    *,
    seed: int = 0,
) -> SignCheck:
    """Plant a clean duplicate and a wrongly labelled copy of every query, score them, and see where they come.

    `describe` adds to rows what the scorer reads, with the same head as for `train`. Every query is its own column
    here: whether the copy helps *that* query is what is known for certain.
    """
    if len(train) > SIGN_ROWS:
        some = np.sort(np.random.default_rng(seed).permutation(len(train))[:SIGN_ROWS])
        train = train.take(some)
    own = replace(queries, groups=tuple(f"query {i}" for i in range(len(queries))))
    plain = replace(queries, groups=(), gradients=None, adam=None, aux={})
    clean = describe(replace(plain, ids=tuple(f"planted/clean/{i}" for i in queries.ids)))
    wrong = describe(
        replace(plain, ids=tuple(f"planted/wrong/{i}" for i in queries.ids), targets=flipped(queries, seed=seed))
    )
    base = scorer.score(train, own).values
    good = np.diagonal(scorer.score(concatenate(train, clean), own).values[len(train) :])
    bad = np.diagonal(scorer.score(concatenate(train, wrong), own).values[len(train) :])
    return SignCheck(
        scorer=scorer.name,
        helpful=float((good[None, :] > base).mean() + 0.5 * (good[None, :] == base).mean()),
        harmful=float((base > bad[None, :]).mean() + 0.5 * (base == bad[None, :]).mean()),
        pairs=float((good > bad).mean()),
        mean_clean=float(good.mean()),
        mean_wrong=float(bad.mean()),
    )


def flipped(view: FeatureView, *, seed: int) -> Float32Array:
    """Return targets that are wrong everywhere: another class, or another single category (none counts as one more)."""
    rng = np.random.default_rng(seed)
    rows, width = view.targets.shape
    if view.loss == "softmax":
        at = (view.targets.argmax(axis=1) + rng.integers(1, width, size=rows)) % width
        swapped: Float32Array = np.eye(width, dtype=np.float32)[at]
        return swapped
    # column 0 stands for benign; a row with several categories counts as its first
    own = np.where(view.targets.any(axis=1), view.targets.argmax(axis=1) + 1, 0)
    at = (own + rng.integers(1, width + 1, size=rows)) % (width + 1)
    out: Float32Array = np.eye(width + 1, dtype=np.float32)[at][:, 1:]
    return out


def concatenate(first: FeatureView, second: FeatureView) -> FeatureView:
    """Return the rows of both views, read into memory. Both must carry the same kinds of features."""
    rows = (np.arange(len(first)), np.arange(len(second)))
    a, b = first.take(rows[0]), second.take(rows[1])

    def joined(name: str) -> Float32Array | None:
        left, right = getattr(a, name), getattr(b, name)
        return None if left is None or right is None else np.concatenate([left, right])

    views: dict[str, GradientView | None] = {}
    for name in ("gradients", "adam"):
        left, right = getattr(a, name), getattr(b, name)
        views[name] = None
        if left is not None and right is not None:
            pairs = zip(left.checkpoints, right.checkpoints, strict=True)
            merged = tuple(replace(x, rows=np.concatenate([x.rows, y.rows])) for x, y in pairs)
            views[name] = replace(left, checkpoints=merged)
    aux = {name: np.concatenate([a.aux[name], b.aux[name]]) for name in a.aux if name in b.aux}
    groups = (*(a.groups or a.ids), *(b.groups or b.ids))
    return replace(
        a,
        ids=(*a.ids, *b.ids),
        targets=np.concatenate([a.targets, b.targets]),
        groups=groups,
        embeddings=joined("embeddings"),
        gradients=views["gradients"],
        adam=views["adam"],
        aux=aux,
    )


def require_sign(check: SignCheck) -> None:
    """Raise `UsageError` where the planted examples are not where they belong."""
    if not check.passed:
        raise UsageError(
            f"The scorer {check.scorer!r} failed its sign check on planted examples: a clean duplicate of a query must "
            f"score above zero and above a wrongly labelled copy for {SIGN_AUC:.0%} of the queries; it did for "
            f"{check.pairs:.0%} (means {check.mean_clean:.3g} and {check.mean_wrong:.3g}).",
            hint="Use another scorer, check the labels of the queries, or train the warm-up head for longer.",
        )


def emptied(strata: Sequence[str], kept: Int64Array) -> Mapping[str, int]:
    """Return the label sets of which nothing was kept, with how many rows they had: a floor does not see those that
    were left out before there was a choice."""
    picks = {strata[i] for i in kept}
    return {name: count for name, count in sorted(Counter(strata).items()) if name not in picks}


def require_floor(strata: Sequence[str], kept: Int64Array, allowed: Sequence[bool], floor: int) -> Mapping[str, int]:
    """Return the picks per stratum, or raise `UsageError` where one has fewer than `floor` (or than it has rows to
    give)."""
    available = Counter(s for s, ok in zip(strata, allowed, strict=True) if ok)
    picks = Counter(strata[i] for i in kept)
    short = {s: picks[s] for s, n in available.items() if picks[s] < min(floor, n)}
    if short:
        raise UsageError(
            f"These groups fall under the floor of {floor} examples: {short}.",
            hint="Raise --keep, lower --floor, or use the selector 'quota' or 'facility_location' with a floor.",
        )
    return dict(sorted(picks.items()))


def effective_diversity(rows: Float32Array) -> float:
    """Return how many different directions the rows have, in [1, min(rows, columns)] (Vendi score, arXiv 2210.02410).

    The exponential of the entropy of the eigenvalues of the cosine matrix: 1 for copies of one row, n for n
    orthogonal rows.
    """
    if len(rows) == 0:
        return 0.0
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    scaled: Float64Array = rows / np.where(norms > 0, norms, 1.0)
    small = scaled @ scaled.T if len(scaled) < scaled.shape[1] else scaled.T @ scaled
    share = np.clip(np.linalg.eigvalsh(small / len(scaled)), 0.0, None)
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))
