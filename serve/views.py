"""What clients see of rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from serve.store.tables import Job, Upload

Aggregate = Literal["segments", "timestamps"]
Sort = Literal["time", "score"]
_ROOMY = ("segments", "timeline")
"""Fields of a verdict that come in pages instead."""


def iso(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601."""
    return moment.isoformat(timespec="milliseconds") if moment else None


def job_view(job: Job) -> dict[str, Any]:
    """Return a job as clients see it."""
    return {
        "id": job.id, "object": "moderation.job", "status": job.status, "stage": job.stage, "source": job.source,
        "sha256": job.sha256, "size_bytes": job.size_bytes, "policy": job.policy, "priority": job.priority,
        "client_ref": job.client_ref, "metadata": job.meta, "decision": job.decision, "degraded": job.degraded,
        "error": job.error, "attempts": job.attempts, "created_at": iso(job.created_at),
        "started_at": iso(job.started_at), "finished_at": iso(job.finished_at),
        "content_until": iso(job.purge_at) if job.blob else None,
    }  # fmt: skip


def upload_view(upload: Upload) -> dict[str, Any]:
    """Return an upload as clients see it."""
    return {
        "id": upload.id, "size_bytes": upload.size_bytes, "offset_bytes": upload.offset_bytes,
        "expires_at": iso(upload.expires_at), "job_id": upload.job_id,
    }  # fmt: skip


def without_pages(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict without what comes in pages."""
    return {key: value for key, value in verdict.items() if key not in _ROOMY}


def places(
    verdict: Mapping[str, Any], aggregate: Aggregate, *, category: str | None, min_score: float, sort: Sort
) -> list[dict[str, Any]]:
    """Return where a verdict speaks of something: segments, or one line for each moment and category."""
    lines: list[dict[str, Any]]
    if aggregate == "segments":
        lines = [dict(segment) for segment in verdict["segments"]]
        score, at = "peak_score", "start_seconds"
    else:
        timeline = verdict["timeline"] or {"moment_seconds": [], "scores": {}}
        lines = [
            {"seconds": seconds, "category": name, "score": values[index]}
            for index, seconds in enumerate(timeline["moment_seconds"])
            for name, values in sorted(timeline["scores"].items())
        ]
        score, at = "score", "seconds"
    kept = [line for line in lines if line[score] >= min_score and category in (None, line["category"])]
    return sorted(kept, key=lambda x: (-x[score], x[at]) if sort == "score" else (x[at], -x[score]))
