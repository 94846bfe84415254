"""Which demonstrations a prompt gets: by chance, by meaning, by meaning with the labels balanced, or by words.

The retrieval arms follow "Beyond One-Size-Fits-All" (arXiv 2511.05532), where balanced semantic retrieval does best:
nearest neighbours alone are often all of one label, and a prompt full of violations makes a model see violations. All
functions are pure; embeddings come from whatever encoder is there, and only those of one encoder are compared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from guard.errors import InvalidConfig
from guard.types import Exemplar, Float32Array, require

Strategy = Literal["random", "semantic", "balanced", "bm25"]
Basis = Literal["embedding", "words", "chance"]
DEFAULT_STRATEGY: Strategy = "balanced"
SHORTLIST = 4
"""Times `count`: how many of the nearest are ranked anew by influence. What is far away helps nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """An exemplar with what is needed to find it."""

    exemplar: Exemplar
    embedding: Float32Array | None = None
    """float32 [D], of the clip, image or text; None where no encoder has seen it."""
    encoder: str = ""
    """Fingerprint of the encoder that made the embedding."""

    def __post_init__(self) -> None:
        if self.embedding is not None:
            shape = (self.embedding.dtype.name, self.embedding.ndim)
            require(shape == ("float32", 1), "embedding", "float32 [D]", f"{shape[0]} of {shape[1]} dimensions")
            require(bool(np.isfinite(self.embedding).all()), "embedding", "finite", self.embedding)

    @property
    def words(self) -> str:
        """What can be found by words."""
        return f"{self.exemplar.text} {self.exemplar.rationale}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What demonstrations are wanted for."""

    text: str = ""
    embedding: Float32Array | None = None
    encoder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """The demonstrations for one prompt, the most useful last: models weigh the end of a list most."""

    demonstrations: tuple[Demonstration, ...]
    basis: Basis
    """What they were ranked by: a semantic arm without embeddings falls back on words, and words without a match on
    chance."""
    tokens: int
    left_out: int
    """Candidates that the budget had no room for."""


def content_key(exemplar: Exemplar) -> str:
    """Return what identifies an exemplar's content: its SHA-256, that of its text, or that of its source's name."""
    if exemplar.sha256:
        return exemplar.sha256
    kind, value = ("text", exemplar.text) if exemplar.text else ("source", exemplar.source)
    return f"{kind}:{hashlib.sha256(value.encode('utf-8')).hexdigest()}"


def count_tokens(text: str) -> int:
    """Return a safe estimate of the tokens of `text`: three bytes each, so that a budget holds in any language."""
    return math.ceil(len(text.encode("utf-8")) / 3)


def retrieve(
    query: Query,
    pool: Sequence[Demonstration],
    *,
    strategy: Strategy = DEFAULT_STRATEGY,
    count: int = 8,
    budget_tokens: int = 1500,
    seed: int = 0,
    tokens_of: Callable[[str], int] = count_tokens,
    influence: Mapping[str, float] | None = None,
) -> Retrieved:
    """Choose at most `count` demonstrations whose words fit `budget_tokens`.

    The result depends on neither the order of the pool nor the clock. `influence` gives the content key of an example
    (`content_key`) a number, higher for one that helps more, such as an influence score of a
    training row: the nearest `SHORTLIST` times `count` are then taken in that order, those without a number last.

    Raises:
        InvalidConfig: the strategy is unknown or a number is negative.
    """
    if strategy not in get_args(Strategy):
        raise InvalidConfig(f"The retrieval strategy is one of {', '.join(get_args(Strategy))}; got {strategy!r}.")
    if count < 0 or budget_tokens < 0:
        raise InvalidConfig(f"count and budget_tokens must not be negative; got {count} and {budget_tokens}.")
    ordered = sorted(pool, key=_identity)
    basis, ranked = _rank(query, ordered, strategy, seed, influence or {}, SHORTLIST * count)
    chosen: list[Demonstration] = []
    tokens = left_out = 0
    for demonstration in ranked:
        if len(chosen) == count:
            break
        cost = tokens_of(demonstration.words)
        if tokens + cost > budget_tokens:
            left_out += 1  # a shorter one further down may still fit
            continue
        chosen.append(demonstration)
        tokens += cost
    return Retrieved(demonstrations=tuple(reversed(chosen)), basis=basis, tokens=tokens, left_out=left_out)


def similarities(query: Query, pool: Sequence[Demonstration]) -> Float32Array | None:
    """Return float32 [n] of cosines in [-1, 1], -2 where there is nothing to compare; None if that holds for all."""
    if query.embedding is None:
        return None
    found = np.full(len(pool), -2.0, np.float32)
    for index, demonstration in enumerate(pool):
        other = demonstration.embedding
        if other is not None and demonstration.encoder == query.encoder and other.shape == query.embedding.shape:
            norms = float(np.linalg.norm(other) * np.linalg.norm(query.embedding))
            found[index] = float(other @ query.embedding) / norms if norms > 0 else 0.0
    return found if bool((found > -2).any()) else None


def bm25(query: str, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> Float32Array:
    """Return float32 [n] of Okapi BM25 scores of `texts` (Robertson and Zaragoza, 2009); 0 where no word is shared."""
    documents = [Counter(_words(text)) for text in texts]
    lengths = np.array([sum(document.values()) for document in documents], np.float64)
    mean = float(lengths.mean()) if len(lengths) and lengths.any() else 1.0
    scores = np.zeros(len(texts), np.float64)
    for word in set(_words(query)):
        counts = np.array([document[word] for document in documents], np.float64)
        having = int((counts > 0).sum())
        rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        scores += rarity * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / mean))
    return scores.astype(np.float32)


def balanced_order(ranked: Sequence[Demonstration]) -> list[Demonstration]:
    """Return `ranked` so that rules and labels take turns, each with its best first.

    Ranked violations v1 v2 v3 and one harmless h1 of a rule give v1 h1 v2 v3.
    """
    queues: dict[tuple[str, bool], list[Demonstration]] = {}
    for demonstration in ranked:
        queues.setdefault((demonstration.exemplar.rule, demonstration.exemplar.violates), []).append(demonstration)
    turns = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(turns) for queue in queues.values() if turn < len(queue)]


def _rank(
    query: Query,
    pool: Sequence[Demonstration],
    strategy: Strategy,
    seed: int,
    influence: Mapping[str, float],
    shortlist: int,
) -> tuple[Basis, list[Demonstration]]:
    basis, scores = _scores(query, pool, strategy)
    order = np.random.default_rng(seed).permutation(len(pool)) if scores is None else np.argsort(-scores, kind="stable")
    ranked = [pool[index] for index in order]
    if influence:
        helps = {id(d): influence.get(content_key(d.exemplar), -math.inf) for d in ranked[:shortlist]}
        ranked[:shortlist] = sorted(ranked[:shortlist], key=lambda d: -helps[id(d)])
    return basis, balanced_order(ranked) if strategy == "balanced" else ranked


def _scores(query: Query, pool: Sequence[Demonstration], strategy: Strategy) -> tuple[Basis, Float32Array | None]:
    near = similarities(query, pool) if strategy in {"semantic", "balanced"} else None
    if near is not None:
        return "embedding", near
    words = bm25(query.text, [demonstration.words for demonstration in pool]) if strategy != "random" else None
    return ("words", words) if words is not None and words.any() else ("chance", None)


def _identity(demonstration: Demonstration) -> tuple[str, bool, str, str, str, str]:
    e = demonstration.exemplar
    return e.rule, e.violates, e.text, e.rationale, e.source, e.sha256 or ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
