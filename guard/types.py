"""The values that parts hand to each other.

Frozen, slotted, keyword-only dataclasses. Units live in names; arrays are checked for shape and dtype when made, and
printed by shape. Nothing here imports more than numpy, so every layer may use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Int32Array: TypeAlias = NDArray[np.int32]

Decision: TypeAlias = Literal["allow", "review", "block", "undecided"]
RuleState: TypeAlias = Literal["off", "flag", "block"]
Stage: TypeAlias = Literal["fast", "slow", "none"]
Violated: TypeAlias = Literal["yes", "no", "unsure"]
JudgementStatus: TypeAlias = Literal["ok", "partial", "parse_error", "generation_error", "video_error"]


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise `ValueError` that names the field, what it must be, and what it was."""
    if not condition:
        raise ValueError(f"{name} must be {expected}; got {got!r}")


def _require_array(array: NDArray[Any], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    expected = f"{np.dtype(dtype).name} of shape {tuple('any' if n is None else n for n in shape)}"
    require(array.dtype == dtype and fits, name, expected, f"{array.dtype.name} {array.shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What a media file says of itself, and what decoding it showed."""

    container: str
    """Demuxer name, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """Name of the decoder of the scored video stream."""
    width: int
    """Displayed width in pixels, after rotation."""
    height: int
    """Displayed height in pixels, after rotation."""
    declared_duration_seconds: float | None
    """From the header; an uploader may write anything here."""
    decoded_duration_seconds: float | None = None
    """From the presentation times of what was decoded."""
    fps: float | None = None
    """Mean frames per second, or None for a still."""
    rotation_degrees: int = 0
    """Clockwise turn needed for display: 0, 90, 180 or 270."""
    vfr: bool | None = None
    """Whether decoded frame intervals vary; None where too few neighbouring frames were seen."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Number of streams by kind, such as `{"video": 1, "audio": 2}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One input: its content (a path or bytes), and the hash that identifies it everywhere."""

    source: str
    """What the user called it: a path, a file name of an upload, or a label. Shown, never opened."""
    sha256: str
    """Lower-case hex SHA-256 of the content."""
    size_bytes: int
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    media: MediaInfo | None = None

    def __post_init__(self) -> None:
        require((self.path is None) != (self.data is None), "Video content", "a path or bytes, not both", self.path)
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        require(hexadecimal, "sha256", "64 lower-case hex digits", self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a video was looked at: the honest size of the blind spots."""

    frames_scored: int
    frames_decoded: int
    largest_gap_seconds: float
    """Longest stretch without a scored frame, the stretches before the first and after the last included."""
    full_decode: bool
    """True where every frame of the stream was decoded (not necessarily scored)."""
    decoded_seconds: float
    declared_seconds: float | None
    complete: bool
    """False where the stream broke off or a limit was met: absence of evidence is then no evidence."""
    sampler: str
    seed: int
    problem: str | None = None
    """Error code (see `guard.errors`) of what made the decode incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Frames:
    """Decoded frames in presentation order, grouped in bursts of neighbours.

    Motion needs neighbours, coverage needs distance: the sampler therefore takes a short burst at each place.
    """

    images: UInt8Array
    """uint8 [T, H, W, 3], RGB, rotation applied."""
    pts_seconds: Float64Array
    """float64 [T], strictly increasing presentation times; the first frame of the stream is at 0 or later."""
    burst_ids: Int32Array
    """int32 [T], non-decreasing from 0: frames with one number are neighbours."""
    coverage: Coverage

    def __post_init__(self) -> None:
        total = len(self.pts_seconds)
        _require_array(self.images, "images", np.uint8, (total, None, None, 3))
        _require_array(self.pts_seconds, "pts_seconds", np.float64, (total,))
        _require_array(self.burst_ids, "burst_ids", np.int32, (total,))
        require(total > 0, "Frames", "at least one frame", total)
        require(bool(np.all(np.diff(self.pts_seconds) > 0)), "pts_seconds", "strictly increasing", self.pts_seconds)
        steps = np.diff(self.burst_ids)
        contiguous = int(self.burst_ids[0]) == 0 and bool(np.all((steps == 0) | (steps == 1)))
        require(contiguous, "burst_ids", "0, 0, .., 1, 1, .. without holes", self.burst_ids)

    def __repr__(self) -> str:
        span = f"{self.pts_seconds[0]:.2f}..{self.pts_seconds[-1]:.2f} s"
        return f"Frames({self.images.shape} uint8, {span}, {int(self.burst_ids[-1]) + 1} bursts)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Scores:
    """What one detector says of one video."""

    categories: tuple[str, ...]
    """The C category ids that this detector covers, in column order. All others are *not judged*, which is not safe."""
    probability: Float32Array
    """float32 [C] in [0, 1]: that the video violates the category."""
    moment_seconds: Float64Array
    """float64 [M]: increasing times that `per_moment` speaks of (one per burst, or one per frame)."""
    per_moment: Float32Array
    """float32 [M, C] in [0, 1]: the score near each time; a detector without any gives M = 0."""
    detector: str
    """Registry key of the detector."""
    fingerprint: str
    """Identifies weights and settings: a calibration fitted for another fingerprint is refused."""
    calibration: str | None = None
    """Id of the calibration applied to `probability`, or None for raw scores."""

    def __post_init__(self) -> None:
        width, moments = len(self.categories), len(self.moment_seconds)
        _require_array(self.probability, "probability", np.float32, (width,))
        _require_array(self.moment_seconds, "moment_seconds", np.float64, (moments,))
        _require_array(self.per_moment, "per_moment", np.float32, (moments, width))
        for name, values in (("probability", self.probability), ("per_moment", self.per_moment)):
            inside = bool(np.all((values >= 0) & (values <= 1)))  # false for NaN as well
            require(inside, name, "finite and in [0, 1]", values)
        require(len(set(self.categories)) == width, "categories", "unique", self.categories)

    def __repr__(self) -> str:
        shown = ", ".join(f"{c}={p:.3f}" for c, p in zip(self.categories, self.probability, strict=True))
        return f"Scores({self.detector}: {shown}; {len(self.moment_seconds)} moments)"

    def of(self, category: str) -> float | None:
        """Return the probability of `category`, or None where this detector does not cover it."""
        return float(self.probability[self.categories.index(category)]) if category in self.categories else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The two numbers that split the scores of one rule in three: clear, uncertain, violating."""

    clear_below: float
    """Scores under this are accepted as safe without the slow path."""
    block_at: float
    """Scores at or above this are accepted as violating without the slow path."""

    def __post_init__(self) -> None:
        ordered = 0.0 <= self.clear_below <= self.block_at <= 1.0 + 1e-9
        require(ordered, "thresholds", "0 <= clear_below <= block_at <= 1", (self.clear_below, self.block_at))


DEFAULT_THRESHOLDS = Thresholds(clear_below=0.1, block_at=0.9)
"""Confidence 0.9 either way: the fixed threshold of the SafeLens paper, used where no calibration gives better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One worked example for a rule: shown to the VLM, and compared with by few-shot detectors."""

    rule: str
    violates: bool
    text: str = ""
    """What the example is, in words (caption, title or the text itself)."""
    rationale: str = ""
    source: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy says of one category."""

    category: str
    state: RuleState
    name: str = ""
    definition: str = ""
    blocked: tuple[str, ...] = ()
    """Lines that say what violates the rule."""
    allowed: tuple[str, ...] = ()
    """Lines that say what does not, though it may look like it."""
    thresholds: Thresholds | None = None
    """Overrides the calibrated ones for this rule."""
    exemplars: tuple[Exemplar, ...] = ()
    locked: bool = False
    """A lower layer (community, user) cannot loosen it."""
    core_value: str = ""
    """What the rule protects, in one line."""
    severity: tuple[str, ...] = ()
    """What mild, serious and extreme violations look like: levels 1, 2, 3 in order; empty where it is not said."""
    subcategories: Mapping[str, str] = field(default_factory=dict)
    """Category id below this rule to one line of what it means: words for prompts and open-vocabulary scorers."""
    extends: str = ""
    """Category of the rule that this one widens; it was made by an extension and follows that rule's state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What counts as violating, for whom. Made by `policies`, passed to everything else as a value."""

    name: str
    version: str
    hash: str
    """SHA-256 over the canonical content: two policies with one hash decide alike."""
    rules: Mapping[str, Rule]
    """Category id to rule. A category that is absent is off."""
    description: str = ""

    def active(self) -> tuple[Rule, ...]:
        """Return the rules that are not off, in their order."""
        return tuple(rule for rule in self.rules.values() if rule.state != "off")

    def told(self) -> tuple[Rule, ...]:
        """Return the active rules as a judge that reads words must be told them.

        What is switched off below a rule is one of its allowed lines. Under `violence: block` and `violence.fighting:
        off` a judge that is told of violence alone would still find a fight to be violent.
        """
        return tuple(self._told(rule) for rule in self.active())

    def _told(self, rule: Rule) -> Rule:
        exempt = {r.category: r for r in self.rules.values() if r.state == "off" and self._above(r) == rule.category}
        lines = (f"Whatever falls under {r.name or r.category}: {r.definition}".rstrip(": ") for r in exempt.values())
        kept = {category: line for category, line in rule.subcategories.items() if category not in exempt}
        return replace(rule, allowed=(*rule.allowed, *lines), subcategories=kept) if exempt else rule

    def _above(self, rule: Rule) -> str | None:
        """Return the nearest category above the rule's own that has a rule."""
        node = rule.category.rpartition(".")[0]
        while node and node not in self.rules:
            node = node.rpartition(".")[0]
        return node or None


class RouteReason(StrEnum):
    """Why a video was accepted on its screening scores, or was not."""

    CONFIDENT_CLEAR = "confident_clear"
    CONFIDENT_VIOLATION = "confident_violation"
    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    POOR_COVERAGE = "poor_coverage"
    UNCOVERED_RULE = "uncovered_rule"
    NO_ACTIVE_RULES = "no_active_rules"


class Finding(StrEnum):
    """What the screening scores amount to for one rule."""

    CLEAR = "clear"
    VIOLATION = "violation"
    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """What the screening scores say of one active rule."""

    category: str
    finding: Finding
    score: float | None
    """Highest score that could violate the rule, or None where nobody scored it."""
    confidence: float
    """In [0, 1]: how far from being undecided."""
    columns: tuple[str, ...] = ()
    """Scored categories that could violate the rule: its own, and those below it that no other rule claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a video goes after screening."""

    path: Literal["fast", "slow"]
    reason: RouteReason
    confidence: float
    """In [0, 1]: how far the least certain active rule is from being undecided; 0 for a rule nobody scored."""
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    """The thresholds used, by category."""
    uncertain: tuple[str, ...] = ()
    """Active categories that the fast path could not settle."""
    findings: tuple[RuleFinding, ...] = ()
    """One for each active rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Something the slow path says it saw."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCheck:
    """The slow path's finding for one rule."""

    rule: str
    violated: Violated
    evidence_seconds: tuple[float, ...] = ()
    why: str = ""
    confidence: float | None = None
    """In [0, 1], from token log-probabilities of the decision, or None where the engine gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A parsed answer of the slow path, or the typed absence of one."""

    status: JudgementStatus
    engine: str
    observations: tuple[Observation, ...] = ()
    checks: tuple[RuleCheck, ...] = ()
    counter_evidence: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    severity: int = 0
    """0 none, 1 mild, 2 serious, 3 extreme."""
    confidence: float | None = None
    """In [0, 1], of the least certain check; never the model's own words."""
    reason: str = ""
    """One sentence for the uploader."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_hash: str = ""
    passes: int = 1
    """How many independent passes agreed on `checks`."""
    error_code: str | None = None
    """Set where `status` is not `ok`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of video in which one category stays at or above its threshold."""

    start_seconds: float
    end_seconds: float
    category: str
    peak_seconds: float
    peak_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryScore:
    """What became of one active rule."""

    score: float | None
    """None where no stage scored the rule: it was not judged."""
    flagged: bool
    threshold: float | None
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Score over time, for people to look at; also what a policy preview re-scores without decoding again."""

    moment_seconds: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """Which policy decided."""

    name: str
    version: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why there is no answer."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one input. Its JSON form (`guard.verdict_json`) is the same in CLI, API, store and webhooks."""

    decision: Decision
    source: str
    sha256: str | None
    """None only where the content could not be read at all."""
    policy: PolicyRef
    rationale: str
    categories: Mapping[str, CategoryScore] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    route: Route | None = None
    judgement: Judgement | None = None
    coverage: Coverage | None = None
    media: MediaInfo | None = None
    timeline: Timeline | None = None
    degraded: bool = False
    """True where a configured stage could not be asked."""
    versions: Mapping[str, str] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: ErrorInfo | None = None
    """Present exactly when `decision` is `undecided`, or when a stage failed and the rest could still decide."""

    def __post_init__(self) -> None:
        silent = self.decision == "undecided" and self.error is None
        require(not silent, "error", "set on an undecided verdict", self.error)
