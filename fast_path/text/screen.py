"""Take texts through the same route and verdict as videos: classifier, router, `guard.verdict`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fast_path import router
from fast_path.text.classifier import TextClassifier, TextScores
from guard.interfaces import Router
from guard.types import Judgement, Policy, Verdict, Video
from guard.verdict import Evidence, decide


def as_input(text: str, *, source: str = "text") -> Video:
    """Return the text as an input value, with the hash of its UTF-8 bytes; lone surrogates are kept apart."""
    data = text.encode("utf-8", "surrogatepass")
    return Video(source=source, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def evidence(
    text: str,
    scored: TextScores,
    policy: Policy,
    *,
    by: Router | None = None,
    judgement: Judgement | None = None,
    source: str = "text",
) -> Evidence:
    """Return everything known of one text, ready for `guard.verdict.decide`."""
    chosen = by or router.build(router.Config())
    return Evidence(
        video=as_input(text, source=source),
        policy=policy,
        scores=(scored.scores,),
        route=chosen.route((scored.scores,), policy, scored.coverage),
        coverage=scored.coverage,
        judgement=judgement,
    )


def screen(
    texts: Sequence[str], policy: Policy, classifier: TextClassifier, *, by: Router | None = None
) -> list[Verdict]:
    """Screen texts without a slow path; what that leaves open is `review` or `undecided`, never `allow`."""
    return [
        decide(evidence(text, scored, policy, by=by))
        for text, scored in zip(texts, classifier.score(texts), strict=True)
    ]
