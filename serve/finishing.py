"""The end of a job: result, events, place in the review queue and records, all in one transaction or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from guard.types import Verdict
from guard.verdict_json import to_dict
from serve import jobs
from serve.audit import append
from serve.history import history_row
from serve.outbox import enqueue
from serve.review.queue import open_item, reason_for
from serve.settings import ServeSettings
from serve.store.tables import Evidence, Job, Result, ScoreHistory, utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker found out about one job."""

    verdict: Verdict
    elapsed_ms: float
    pictures: Sequence[dict[str, Any]] = ()
    """Columns of the `Evidence` rows."""
    override_id: str | None = None


def risk_of(verdict: Verdict) -> float:
    """Return how bad it may be, in [0, 1]: the highest score of an active rule; 1 for what could not be judged."""
    if verdict.decision == "undecided":
        return 1.0
    return max((found.score or 0.0 for found in verdict.categories.values()), default=0.0)


def event_of(verdict: Verdict) -> str:
    """Return which event tells of a verdict; there is exactly one for each job."""
    if verdict.decision == "undecided":
        return "moderation.job.failed"
    return "moderation.job.review_required" if verdict.decision == "review" else "moderation.job.completed"


def finish(session: Session, serve: ServeSettings, job_id: str, owner: str, outcome: Outcome) -> Job | None:
    """End a job with its verdict, if `owner` still holds it; else change nothing and return None."""
    now, verdict = utc_now(), outcome.verdict
    job = jobs.end(session, job_id, owner, status="failed" if verdict.decision == "undecided" else "succeeded", now=now)
    if job is None:
        return None
    if job.cancel_requested:
        return _canceled(job, now)
    plain = to_dict(verdict)
    job.decision, job.degraded, job.error = verdict.decision, verdict.degraded, plain["error"]
    job.sha256 = job.sha256 or verdict.sha256
    reason = reason_for(plain)
    job.purge_at = now + timedelta(seconds=_kept_seconds(job, serve, needs_person=verdict.decision != "allow"))
    session.add(_result(job, verdict, plain, outcome))
    for picture in outcome.pictures:
        until = now + timedelta(seconds=serve.evidence_seconds)
        session.add(Evidence(job_id=job.id, tenant_id=job.tenant_id, purge_at=until, **picture))
    if reason is not None:
        open_item(
            session, tenant_id=job.tenant_id, job_id=job.id, sha256=job.sha256, reason=reason, risk=risk_of(verdict)
        )
    _tell(session, job, event_of(verdict))
    row = history_row(verdict, tenant_id=job.tenant_id, kind="video", latency_ms=outcome.elapsed_ms, job_id=job.id)
    session.execute(insert(ScoreHistory), [row])
    tokens = verdict.judgement.prompt_tokens + verdict.judgement.completion_tokens if verdict.judgement else 0
    jobs.use(session, job.tenant_id, now, {"media_seconds": row["media_seconds"], "vlm_tokens": tokens})
    append(session, job.tenant_id, actor="machine", action="job.decided", subject=job.id, details=_noted(job, verdict))
    return job


def _kept_seconds(job: Job, serve: ServeSettings, *, needs_person: bool) -> int:
    """Return how long content stays: as long as the client said, but never so short that a reviewer sees nothing."""
    if needs_person:
        return max(serve.review_content_seconds, job.retention_seconds or 0)
    return serve.content_seconds if job.retention_seconds is None else job.retention_seconds


def _canceled(job: Job, now: datetime) -> Job:
    job.status, job.purge_at = "canceled", now
    return job


def _result(job: Job, verdict: Verdict, plain: dict[str, Any], outcome: Outcome) -> Result:
    return Result(
        job_id=job.id, tenant_id=job.tenant_id, decision=verdict.decision, risk=risk_of(verdict), sha256=verdict.sha256,
        policy_name=verdict.policy.name[:255], policy_version=verdict.policy.version[:255],
        policy_hash=verdict.policy.hash, override_id=outcome.override_id, verdict=plain,
    )  # fmt: skip


def _tell(session: Session, job: Job, event: str) -> None:
    data = {
        "job_id": job.id, "status": job.status, "decision": job.decision, "degraded": job.degraded,
        "client_ref": job.client_ref, "result": f"/v1/jobs/{job.id}/result",
    }  # fmt: skip
    name = f"evt_{job.id.removeprefix('job_')}"  # one event for each job, however often its work was begun
    enqueue(session, job.tenant_id, event, data, event_id=name, job_id=job.id, callback_url=job.callback_url)


def _noted(job: Job, verdict: Verdict) -> dict[str, Any]:
    """Return what the audit log keeps of a decision: enough for a statement of reasons, and no content."""
    scores = {c: {"score": s.score, "flagged": s.flagged, "threshold": s.threshold, "stage": s.stage}
              for c, s in verdict.categories.items()}  # fmt: skip
    return {
        "decision": verdict.decision, "degraded": verdict.degraded, "sha256": verdict.sha256, "scores": scores,
        "policy": {"name": verdict.policy.name, "version": verdict.policy.version, "hash": verdict.policy.hash},
        "versions": dict(verdict.versions), "error": verdict.error.code if verdict.error else None,
    }  # fmt: skip
