"""Statements of reasons as the DSA Transparency Database takes them (Regulation (EU) 2022/2065, article 17). Pure.

What only the operator knows (legal grounds, territory, the terms broken) is left to them: the ground is given as
incompatible with the operator's terms, which are the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard import taxonomy
from serve.store.people import Review
from serve.store.tables import Job, Result

MAX_FACTS = 5000
_OTHER = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC"


def statement(job: Job, result: Result, review: Review | None) -> dict[str, Any]:
    """Return the statement of one blocked job: who decided, why, by which rule, from which time on."""
    verdict: Mapping[str, Any] = result.verdict
    categories = _violated(verdict, review)
    category = next((dsa for c in categories if (dsa := _dsa(c)) is not None), _OTHER)
    decided_at = review.created_at if review is not None else job.finished_at or job.created_at
    return {
        "puid": job.id,
        "decision_visibility": ["DECISION_VISIBILITY_CONTENT_REMOVED"],
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": f"{result.policy_name} {result.policy_version} ({result.policy_hash[:12]})",
        "incompatible_content_explanation": ", ".join(categories) or "the policy as a whole",
        "content_type": ["CONTENT_TYPE_VIDEO"],
        "category": category,
        "content_date": job.created_at.strftime("%Y-%m-%d"),
        "application_date": decided_at.strftime("%Y-%m-%d"),
        "decision_facts": _facts(verdict, review)[:MAX_FACTS],
        "source_type": "SOURCE_VOLUNTARY",
        "automated_detection": "Yes",
        "automated_decision": "AUTOMATED_DECISION_FULLY" if review is None else "AUTOMATED_DECISION_PARTIALLY",
    }


def _violated(verdict: Mapping[str, Any], review: Review | None) -> list[str]:
    if review is not None and review.categories:
        return list(review.categories)
    flagged = {c: s["score"] or 0.0 for c, s in verdict["categories"].items() if s["flagged"]}
    return sorted(flagged, key=lambda c: -flagged[c])


def _dsa(category: str) -> str | None:
    node: str | None = category
    while node:
        found = taxonomy.categories().get(node)
        if found is not None and found.dsa:
            return found.dsa
        node = node.rpartition(".")[0] or None
    return None


def _facts(verdict: Mapping[str, Any], review: Review | None) -> str:
    facts = f"The content was found by automated means. {verdict['rationale']}"
    return facts if review is None else f"{facts} A person reviewed it and decided to block it."
