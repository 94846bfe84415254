"""Settings of the service alone: what requests may cost, how long things are kept, who may be reached.

Read from the environment (`GUARD_SERVE_<NAME>`) once, at start. What decides a verdict is in `guard.config.Settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guard.errors import InvalidConfig

MIB = 1 << 20
DAY = 86_400
PREFIX = "GUARD_SERVE_"


class ServeSettings(BaseModel):
    """Every key has a default that works; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blobs: Path | None = None
    """Where content waits for its verdict; None takes `blobs` in the home of video-guard. Machines that share a
    database must share this folder as well."""
    secret: Path | None = None
    """File with the signing secret, made on first start; None takes `serve.secret` in the home of video-guard."""

    rate_per_second: float = Field(default=50.0, gt=0)
    """Requests per second that one key may make in the long run."""
    rate_burst: int = Field(default=200, ge=1)
    """Requests that one key may make at once."""
    max_json_bytes: int = Field(default=28 * MIB, ge=1024)
    """Largest JSON body: 20 MiB of content as base64, and some."""
    max_bodies_bytes: int = Field(default=512 * MIB, ge=1024)
    """Bodies in memory of all requests of this process together; 503 above it. Files and batches go to disk."""
    max_inline_bytes: int = Field(default=20 * MIB, ge=1024)
    """Largest image or clip in a data URL."""
    max_upload_bytes: int = Field(default=100 * MIB, ge=1024)
    """Largest file in one request."""
    max_resumable_bytes: int = Field(default=10 * 1024 * MIB, ge=1024)
    """Largest file that comes in pieces."""
    max_batch_bytes: int = Field(default=200 * MIB, ge=1024)
    max_batch_lines: int = Field(default=50_000, ge=1)
    body_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for the next piece of a body."""
    max_blob_bytes: int = Field(default=100 * 1024 * MIB, ge=MIB)
    """All content on disk together; uploads are refused above it."""

    max_inputs: int = Field(default=64, ge=1)
    """Texts or parts in one moderation request."""
    max_pending_texts: int = Field(default=2048, ge=1)
    """Texts that may wait in this process; 503 above it."""
    max_pending_media: int = Field(default=64, ge=1)
    """Images and clips that may wait in this process; 503 above it."""
    sync_seconds: float = Field(default=30.0, gt=0)
    """Longest time for a moderation request; what takes longer goes on as a job."""

    job_threads: int = Field(default=0, ge=0)
    """Jobs judged at once by one worker; 0 takes one for each decoder process."""
    lease_seconds: float = Field(default=30.0, ge=1)
    """A worker that is silent for this long has lost its job to another."""
    poll_seconds: float = Field(default=0.5, gt=0)
    max_attempts: int = Field(default=5, ge=1)
    """A job whose workers die this often is failed: it kills them."""
    max_queued: int = Field(default=10_000, ge=1)
    """Jobs that may wait in all; 503 above it."""
    tenant_queued: int = Field(default=2_000, ge=1)
    """Jobs of one tenant that may wait; 429 above it."""
    tenant_running: int = Field(default=20, ge=1)
    """Jobs of one tenant that run at once; the others wait."""
    tenant_media_seconds_per_day: float = Field(default=0.0, ge=0)
    """Seconds of video judged for one tenant per UTC day; 0 for no bound."""
    max_wait_seconds: float = Field(default=30.0, ge=0)
    """Longest `?wait=`."""

    content_seconds: int = Field(default=0, ge=0)
    """How long content is kept after an `allow`; 0 deletes it at once."""
    review_content_seconds: int = Field(default=7 * DAY, ge=0)
    """How long content is kept that a person may have to look at."""
    evidence_seconds: int = Field(default=7 * DAY, ge=0)
    record_seconds: int = Field(default=180 * DAY, ge=DAY)
    """How long jobs, results and score history are kept."""
    idempotency_seconds: int = Field(default=DAY, ge=60)
    upload_seconds: int = Field(default=DAY, ge=60)
    """How long an unfinished upload is kept."""
    cursor_seconds: int = Field(default=DAY, ge=60)
    sweep_seconds: float = Field(default=60.0, gt=0)

    fetch_urls: bool = False
    """Whether content may be named by URL."""
    fetch_hosts: tuple[str, ...] = ()
    """Hosts that may be fetched from; empty for every public one."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks that webhooks and fetches may reach all the same, such as `10.1.0.0/16`."""


def load_serve_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> ServeSettings:
    """Return the settings of this process. Lists are separated by commas. Raises `InvalidConfig`."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith(PREFIX) and text:
            key = name.removeprefix(PREFIX).lower()
            lists = key in ("fetch_hosts", "allowed_networks")
            values[key] = tuple(filter(None, (part.strip() for part in text.split(",")))) if lists else text
    values |= {key: value for key, value in overrides.items() if value is not None}
    return parse(values)


def parse(values: Mapping[str, Any]) -> ServeSettings:
    """Return settings of these values. Raises `InvalidConfig` with the first one that does not fit."""
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(ServeSettings.model_fields)
            raise InvalidConfig(f"There is no setting {key!r} of the service; there are: {known}.") from error
        raise InvalidConfig(f"The setting {PREFIX}{key.upper()} is {first['input']!r}: {first['msg']}.") from error
