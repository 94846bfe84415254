"""The values that parts hand to each other.

Frozen, slotted, keyword-only dataclasses. Units live in names; arrays are checked for shape and dtype when made, and
printed by shape. Nothing here imports more than numpy, so every layer may use it. One module per noun; import all of
them from here.
"""

from __future__ import annotations

from guard.types.checks import (
    Float32Array,
    Float64Array,
    Int32Array,
    UInt8Array,
    require,
)
from guard.types.judgement import (
    Judgement,
    JudgementStatus,
    Observation,
    RuleCheck,
    SlowPathState,
    Violated,
)
from guard.types.policy import (
    Exemplar,
    Policy,
    Rule,
    RuleState,
)
from guard.types.route import (
    Finding,
    Route,
    RouteReason,
    RuleFinding,
)
from guard.types.scores import DEFAULT_THRESHOLDS, Scores, Thresholds
from guard.types.verdict import (
    CategoryScore,
    Decision,
    ErrorInfo,
    PolicyRef,
    Segment,
    Stage,
    Timeline,
    Verdict,
)
from guard.types.video import (
    Coverage,
    Frames,
    MediaInfo,
    Pass,
    Video,
)

__all__ = [
    "DEFAULT_THRESHOLDS",
    "CategoryScore",
    "Coverage",
    "Decision",
    "ErrorInfo",
    "Exemplar",
    "Finding",
    "Float32Array",
    "Float64Array",
    "Frames",
    "Int32Array",
    "Judgement",
    "JudgementStatus",
    "MediaInfo",
    "Observation",
    "Pass",
    "Policy",
    "PolicyRef",
    "Route",
    "RouteReason",
    "Rule",
    "RuleCheck",
    "RuleFinding",
    "RuleState",
    "Scores",
    "Segment",
    "SlowPathState",
    "Stage",
    "Thresholds",
    "Timeline",
    "UInt8Array",
    "Verdict",
    "Video",
    "Violated",
    "require",
]
