"""Videos that look alike: other jobs of the tenant whose evidence frames show nearly the same picture.

A hint for a person, by the difference hash of `data_filter.dedup`; it decides nothing. Only pictures that we encoded
ourselves are decoded here, never an upload.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve.blobs import Blobs
from serve.review.decisions import latest_review
from serve.store.people import Review
from serve.store.tables import Evidence, Job

NEAR_BITS = 7
"""Differing bits of 64; unrelated pictures differ in about 32."""
_CANDIDATES = 600
"""Newest evidence frames that are compared: hashing one takes about 1 ms, once."""
_BUDGET_SECONDS = 0.25
"""A page waits no longer for frames that were never hashed; the next page goes on from there."""
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Another job, and how near it is."""

    job: Job
    bits: int
    """Of 64, between the nearest two frames."""
    review: Review | None
    """What a person decided on it."""


def near(session: Session, blobs: Blobs, job: Job) -> list[Alike]:
    """Return the jobs that look like `job`, the nearest first; those of identical content are left to its history."""
    mine = [h for h in (_hash(blobs, row.blob) for row in _frames_of(session, job)) if h is not None]
    if not mine:
        return []
    query = (
        select(Evidence.blob, Job)
        .join(Job, Job.id == Evidence.job_id)
        .where(Evidence.tenant_id == job.tenant_id, Evidence.job_id != job.id)
        .order_by(Evidence.created_at.desc())
        .limit(_CANDIDATES)
    )
    best: dict[str, tuple[int, Job]] = {}
    until = time.monotonic() + _BUDGET_SECONDS
    for blob, other in session.execute(query):
        theirs = _hash(blobs, blob) if other.sha256 is None or other.sha256 != job.sha256 else None
        if theirs is not None:
            bits = min((theirs ^ own).bit_count() for own in mine)
            if bits <= NEAR_BITS and (other.id not in best or bits < best[other.id][0]):
                best[other.id] = (bits, other)
        if time.monotonic() > until:
            break
    nearest = sorted(best.values(), key=lambda pair: pair[0])[:_SHOWN]
    return [Alike(job=o, bits=b, review=latest_review(session, job.tenant_id, o.id)) for b, o in nearest]


def _frames_of(session: Session, job: Job) -> Sequence[Evidence]:
    return session.scalars(select(Evidence).where(Evidence.job_id == job.id).order_by(Evidence.number).limit(20)).all()


def _hash(blobs: Blobs, name: str) -> int | None:
    try:
        return _hash_of(str(blobs.path(name)))
    except ValueError:
        return None


@lru_cache(maxsize=20_000)
def _hash_of(path: str) -> int | None:
    """Blobs never change under their name, so a hash is good for ever."""
    import cv2

    from data_filter.dedup import frame_hash

    picture = cv2.imread(path, cv2.IMREAD_COLOR) if Path(path).is_file() else None
    if picture is None:
        return None
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return None if float(rgb.std()) < 2 else frame_hash(rgb.astype("uint8"))
