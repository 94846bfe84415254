"""Jobs with real verdicts in a database, for tests of what people do with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import builders

from guard.types import (
    CategoryScore,
    Judgement,
    Observation,
    PolicyRef,
    Route,
    RouteReason,
    RuleCheck,
    Segment,
    Thresholds,
    Timeline,
    Verdict,
)
from guard.verdict_json import to_dict
from serve import keys
from serve.keys import Principal
from serve.review import queue
from serve.store.people import ReviewItem
from serve.store.session import Database
from serve.store.tables import Job, Result, Tenant, utc_now

FIGHT = "violence.fighting"
BOUNDS = Thresholds(clear_below=0.1, block_at=0.9)


def sha(number: int) -> str:
    return f"{number:064x}"


def verdict(
    scores: Mapping[str, float], *, decision: str = "review", source: str = "clip.mp4", number: int = 1, **changes: Any
) -> Verdict:
    """Return a verdict on a clip of ten seconds whose highest score is reached at second 4."""
    times = tuple(float(t) for t in range(0, 10, 2))
    lines = {c: tuple(round(s * (1 - abs(t - 4) / 10), 3) for t in times) for c, s in scores.items()}
    values: dict[str, Any] = {
        "decision": decision,
        "source": source,
        "sha256": sha(number),
        "policy": PolicyRef(name="screen", version="1", hash="f" * 64),
        "rationale": "Fighting is uncertain (0.62); a person should look.",
        "categories": {
            c: CategoryScore(score=s, flagged=s >= 0.9, threshold=0.9, stage="fast") for c, s in scores.items()
        },
        "segments": tuple(
            Segment(start_seconds=2.0, end_seconds=6.0, category=c, peak_seconds=4.0, peak_score=s)
            for c, s in scores.items()
            if s > 0.1
        ),
        "route": Route(
            path="fast", reason=RouteReason.UNCERTAIN, confidence=0.2, thresholds=dict.fromkeys(scores, BOUNDS)
        ),
        "coverage": builders.coverage(),
        "media": builders.media(decoded_duration_seconds=10.0),
        "timeline": Timeline(moment_seconds=times, scores=lines),
        "versions": {"video_guard": "0.1.0"},
    }
    if decision == "undecided":
        values["error"] = builders_error()
    return Verdict(**(values | changes))


def _score(value: float) -> CategoryScore:
    return CategoryScore(score=value, flagged=value >= 0.9, threshold=0.9, stage="fast")


def builders_error() -> Any:
    from guard.errors import Undecodable

    return Undecodable("The stream cannot be decoded.").info()


def judged() -> Judgement:
    return Judgement(
        status="ok",
        engine="test-vlm",
        observations=(Observation(start_seconds=3.0, end_seconds=5.0, text="Two people push each other."),),
        checks=(RuleCheck(rule=FIGHT, violated="unsure", evidence_seconds=(4.0,), why="It may be a dance."),),
        confidence=0.55,
        reason="It may be a fight.",
    )


def person(database: Database, name: str, *scopes: str, tenant: str = "acme") -> Principal:
    """Make a key and return who it stands for."""
    with database.write() as session:
        made = keys.create(session, name=name, scopes=scopes or ("review", "read"), tenant=tenant)
    return Principal(tenant_id=tenant, key_id=made.id, name=name, scopes=frozenset(made.scopes))


def add_job(
    database: Database,
    found: Verdict,
    *,
    tenant: str = "acme",
    age: timedelta = timedelta(0),
    queued: bool = True,
    risk: float | None = None,
    now: datetime | None = None,
    **changes: Any,
) -> str:
    """Put a finished job with its result in the database, and in the queue; return its id."""
    moment = (now or utc_now()) - age
    top = max((c.score or 0.0 for c in found.categories.values()), default=1.0)
    with database.write() as session:
        if session.get(Tenant, tenant) is None:
            session.add(Tenant(id=tenant, name=tenant))
            session.flush()
        values: dict[str, Any] = {
            "tenant_id": tenant, "status": "succeeded", "source": found.source, "sha256": found.sha256, "size_bytes": 1,
            "created_at": moment, "finished_at": moment, "decision": found.decision, "stage": "done",
        }  # fmt: skip
        job = Job(**(values | changes))
        session.add(job)
        session.flush()
        result = {
            "job_id": job.id, "tenant_id": tenant, "created_at": moment, "decision": found.decision,
            "risk": top if risk is None else risk, "sha256": found.sha256, "policy_name": found.policy.name,
            "policy_version": found.policy.version, "policy_hash": found.policy.hash, "verdict": to_dict(found),
        }  # fmt: skip
        session.add(Result(**result))
        session.flush()
        if queued:
            item = queue.open_item(
                session, tenant_id=tenant, job_id=job.id, sha256=found.sha256,
                reason=queue.reason_for(to_dict(found)) or "sample", risk=top if risk is None else risk,
            )  # fmt: skip
            item.created_at = moment
        return job.id


def item_of(database: Database, job_id: str) -> ReviewItem:
    """Return the newest place of a job in the queue."""
    from sqlalchemy import select

    with database.read() as session:
        query = select(ReviewItem).where(ReviewItem.job_id == job_id).order_by(ReviewItem.round.desc())
        return session.scalars(query).first()  # type: ignore[return-value]


def add_content(service: Any, database: Database, job_id: str, clip: bytes, *, frames: int = 3) -> None:
    """Give a job its content and evidence frames, as the worker keeps them."""
    import io

    import av
    import numpy as np

    from serve.evidence import encode_jpeg
    from serve.store.tables import Evidence

    stored = service.blobs.put(clip, suffix=".mp4")
    with av.open(io.BytesIO(clip)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with database.write() as session:
        job = session.get_one(Job, job_id)
        job.blob = stored.name
        for number, image in enumerate(images[:: max(1, len(images) // frames)][:frames]):
            kept = service.blobs.put(encode_jpeg(np.ascontiguousarray(image)), suffix=".jpg")
            session.add(
                Evidence(
                    job_id=job_id, tenant_id=job.tenant_id, number=number, seconds=2.0 * number + 2, category=FIGHT,
                    score=0.62, blob=kept.name, width=image.shape[1], height=image.shape[0],
                )
            )  # fmt: skip


def moving(number: int) -> Any:
    """Return frame `number` of a clip with something bright that crosses it, uint8 [180, 320, 3]."""
    import numpy as np

    image = np.zeros((180, 320, 3), np.uint8)
    image[:, :, 0] = (np.arange(320)[None, :] + number) % 256
    image[:, :, 1] = (np.arange(180)[:, None] * 1.4).astype(np.uint8)
    left = number * 4 % 260
    image[60:120, left : left + 60] = (230, 220, 40)
    return image


def populate(service: Any, *, tenant: str = "default") -> list[str]:
    """Fill a service as a fortnight would: a queue, decisions, scores that drift. Returns the jobs in the queue."""
    import random

    from media import render

    from serve.store.people import Review
    from serve.store.tables import ScoreHistory

    rng, database = random.Random(1), service.database
    clip = render(frames=100, fps=10, size=(320, 180), draw=moving)
    rows = [
        ("uploads/street_cam_0412.mp4", 0.62, 0.30), ("gen/prompt-8812.webm", 0.82, 0.10),
        ("=cmd|calc!A0.mp4", 0.34, 0.66), ("<b>party</b>.mp4", 0.91, 0.20), ("holiday \u202egpj.exe.mp4", 0.15, 0.05),
        ("clip-00017.mp4", 0.55, 0.12), ("concert_front_row.mov", 0.48, 0.40), ("dashcam-front.mp4", 0.20, 0.71),
    ]  # fmt: skip
    jobs = []
    for number, (name, fight, crash) in enumerate(rows):
        changes: dict[str, Any] = {"decision": "undecided"} if number == 4 else {}
        if number in (0, 3):
            changes["judgement"] = judged()
        scores = {FIGHT: fight, "accidents.road": crash, "violence.fire": 0.08}
        found = verdict(scores, number=9000 + number, source=name, **changes)
        jobs.append(
            add_job(database, found, tenant=tenant, age=timedelta(hours=5 * number), client_ref=f"user-{number}")
        )
        add_content(service, database, jobs[-1], clip)
    reviewer = person(database, "maria", tenant=tenant)
    earlier = verdict({FIGHT: 0.62}, number=9000, source="same-clip-last-week.mp4")
    before = add_job(database, earlier, tenant=tenant, age=timedelta(days=6), queued=False)
    with database.write() as session:
        session.add(
            Review(
                tenant_id=tenant, job_id=before, reviewer=reviewer.key_id, decision="block", categories=[FIGHT],
                machine_decision="review", agrees=True, seconds_spent=22.0, reason="Two people fight.",
                created_at=utc_now() - timedelta(days=6),
            )
        )  # fmt: skip
        for number in range(60):
            session.add(
                Review(
                    tenant_id=tenant, job_id=f"job_{number}", reviewer=reviewer.key_id, decision="block",
                    machine_decision=rng.choice(["review", "block"]), agrees=rng.random() < 0.85,
                    seconds_spent=abs(rng.gauss(25, 10)), created_at=utc_now() - timedelta(hours=rng.random() * 100),
                )
            )  # fmt: skip
        for _ in range(900):
            at = utc_now() - timedelta(hours=rng.random() * 24 * 13)
            middle = 0.2 if at < utc_now() - timedelta(days=7) else 0.4
            session.add(
                ScoreHistory(
                    tenant_id=tenant, at=at, kind=rng.choice(["video", "text", "image"]), policy_hash="f" * 64,
                    policy_name=rng.choice(["screen", "layer:reviews"]), path=rng.choice(["fast", "fast", "slow"]),
                    decision=rng.choices(["allow", "review", "block", "undecided"], [70, 18, 9, 3])[0],
                    latency_ms=abs(rng.gauss(300, 200)), media_seconds=8.0,
                    scores={FIGHT: min(1.0, max(0.0, rng.gauss(middle, 0.15))), "accidents.road": rng.random() * 0.3},
                )
            )  # fmt: skip
    return jobs
