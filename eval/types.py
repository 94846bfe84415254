"""What benchmarks, systems and metrics hand to each other.

A model sees a `Sample`. What is true of it is its `Gold`, which lies in a `Key` that stays sealed until every answer is
written down: the two meet only in scoring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeAlias

from guard import taxonomy
from guard.types import Policy, require

Kind: TypeAlias = Literal["video", "text"]
Status: TypeAlias = Literal["ok", "partial", "parse_error", "generation_error", "video_error", "unsupported"]

DEFAULT_POLICY = ""
"""Name of the policy of a benchmark that has one only."""


class LabelHidden(RuntimeError):  # noqa: N818 - reads as what happened
    """Something on the side of the model asked for what is true of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a system sees of one item. Its id says nothing, and it has no label, group, split or subcategory."""

    id: str
    """16 hex digits. Show this to a model, never the file's name: in many benchmarks the name is the label."""
    kind: Kind
    path: Path | None = field(default=None, repr=False)
    """For opening. Its name must not reach a model."""
    text: str | None = field(default=None, repr=False)
    policy: str = DEFAULT_POLICY
    """Name of the policy to judge under, among the benchmark's own."""

    def __post_init__(self) -> None:
        given = self.path if self.kind == "video" else self.text
        require(given is not None, "Sample", f"a {'path' if self.kind == 'video' else 'text'}", given)

    def __getattr__(self, name: str) -> NoReturn:
        raise LabelHidden(f"A sample has no {name!r}: what is true of it is kept from the systems that are measured.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """What is true of one sample."""

    name: str
    """The benchmark's own name of it, such as a relative path; people see it in reports."""
    labels: tuple[str, ...] = ()
    """Columns that it violates; empty means benign."""
    known: tuple[str, ...] | None = None
    """Columns that the label speaks of; None means all."""
    group: str = ""
    """Items of one group fail together (one camera, event or source); empty means its own group."""
    split: str = "test"
    domain: str = ""
    stem: str = ""
    """The benchmark's own subcategory."""
    folder: str = ""
    """The category folder that it lies in, where that is not its label (SafeWatch's benign clips)."""
    default_unsafe: bool | None = None
    """Whether it is unsafe under the default policy, where the benchmark varies the policy."""
    clip: str = ""
    """Names the content where it appears under several policies."""
    spans_seconds: tuple[tuple[float, float], ...] | None = None
    """Where it violates, in seconds; None where the benchmark does not say."""
    spans_frames: tuple[tuple[int, int], ...] | None = None
    """The same in frames [start, end), from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One category of a benchmark, and the ids of our taxonomy that answer it."""

    id: str
    name: str
    accepts: tuple[str, ...]
    """An answer about any of these, about something below one, or about a category above one, answers the column."""

    def answered_by(self, category: str) -> bool:
        """Whether an answer about `category` speaks of this column."""
        return any(taxonomy.covers(a, category) or taxonomy.covers(category, a) for a in self.accepts)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a benchmark is, known without its files."""

    title: str
    kind: Kind
    get: str
    """How to get the data, in a sentence."""
    layout: tuple[str, ...]
    """Files and folders that must lie below --data."""
    source: str = ""
    """Paper or repository."""
    licence: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Counts as published, which a complete copy has."""
    notes: tuple[str, ...] = ()
    """What a reader of its numbers must know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """An item of the label files whose content is not there."""

    name: str
    """Where it was looked for, relative to the data folder."""
    get: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sample and what is true of it, before the two are parted."""

    sample: Sample
    gold: Gold


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A loaded benchmark."""

    name: str
    about: About
    columns: tuple[Column, ...]
    items: tuple[Item, ...]
    missing: tuple[Missing, ...] = ()
    expected: int
    """Items that the label files name."""
    policies: Mapping[str, Policy]
    protocols: tuple[str, ...] = ()
    """Metric sets beyond the strict ones; see `eval.protocols`."""
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Name of a further way to count, to the stems that it leaves out."""
    notes: tuple[str, ...] = ()
    """What was left out or resolved while reading."""
    data_hash: str = ""

    @property
    def partial(self) -> bool:
        """Whether items are missing."""
        return len(self.items) < self.expected


class Key:
    """Gold by sample id. While it is sealed, asking it raises."""

    def __init__(self, items: tuple[Item, ...]) -> None:
        self._gold: Mapping[str, Gold] = MappingProxyType({item.sample.id: item.gold for item in items})
        self._sealed = False
        require(len(self._gold) == len(items), "sample ids", "different", len(items) - len(self._gold))

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Keep the key shut while a system is at work."""
        self._sealed = True
        try:
            yield
        finally:
            self._sealed = False

    def __getitem__(self, sample_id: str) -> Gold:
        if self._sealed:
            raise LabelHidden("The key is sealed until every answer is written down.")
        return self._gold[sample_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a system said of one sample, or why it said nothing."""

    id: str
    status: Status
    code: str | None = None
    """Error code; set unless `status` is `ok`."""
    decision: str | None = None
    """`allow`, `review`, `block` or `undecided`, where the system decides."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Category id to a score in [0, 1]; a category that is absent was not judged."""
    flagged: tuple[str, ...] = ()
    """Category ids that the system is sure of."""
    any_score: float | None = None
    """That the sample is unsafe at all, where the system says so itself."""
    route: Literal["fast", "slow"] | None = None
    fast_scores: Mapping[str, float] | None = None
    """Scores before the slow path, where there is one."""
    segments: tuple[tuple[float, float, str, float], ...] = ()
    """Start and end in seconds, category, score."""
    moments: tuple[float, ...] = ()
    """Times in seconds that `moment_scores` speaks of."""
    moment_scores: tuple[float, ...] = ()
    """Highest score of any category of the policy at each moment."""
    latency_ms: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    frames: int | None = None
    """Frames looked at."""
    why: str = ""

    @property
    def valid(self) -> bool:
        """Whether there is an answer to score."""
        return self.status in ("ok", "partial")

    def __post_init__(self) -> None:
        require(self.status == "ok" or self.code is not None, "code", "set unless the status is ok", self.code)
        require(all(0 <= s <= 1 for s in self.scores.values()), "scores", "in [0, 1]", dict(self.scores))
        require(len(self.moments) == len(self.moment_scores), "moment_scores", "one per moment", len(self.moments))


def sample_id(benchmark: str, name: str, variant: str = "") -> str:
    """Return the id of an item: a hash, so that it tells no label."""
    return hashlib.sha256(f"{benchmark}\0{name}\0{variant}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def to_plain(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON values, without what it does not say."""
    plain: dict[str, Any] = {}
    for name in Prediction.__slots__:
        value = getattr(prediction, name)
        if value not in (None, "", (), {}) or name == "status":
            plain[name] = _rounded(value)
    return plain


def from_plain(plain: Mapping[str, Any]) -> Prediction:
    """Rebuild a prediction. Raises `ValueError` or `TypeError` for what is none."""
    values = dict(plain)
    for name in ("flagged", "moments", "moment_scores"):
        if name in values:
            values[name] = tuple(values[name])
    if "segments" in values:
        values["segments"] = tuple((float(s), float(e), str(c), float(p)) for s, e, c, p in values["segments"])
    return Prediction(**values)


def _rounded(value: Any) -> Any:
    """Return `value` with floats at six decimals: enough for any metric, and half the file."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return value
