"""What requests may say and what answers look like: the models behind the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_TEXT = 200_000
"""Characters of one text; a book belongs in pieces."""

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
PolicyName = Annotated[str, StringConstraints(min_length=1, max_length=120)]


class Request(BaseModel):
    """Base of request bodies: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Request):
    """A text among other parts."""

    type: Literal["text"]
    text: Text


class MediaUrl(Request):
    """Content as a data URL (`data:video/mp4;base64,...`), or by address where the service fetches."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=30_000_000)]


class ImagePart(Request):
    """An image among other parts."""

    type: Literal["image_url"]
    image_url: MediaUrl


class VideoPart(Request):
    """A clip among other parts."""

    type: Literal["video_url"]
    video_url: MediaUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ModerationRequest(Request):
    """A request of the OpenAI moderation API. `policy`, `flag_on` and `detail` are ours."""

    input: Text | Annotated[list[Text], Field(min_length=1)] | Annotated[list[Part], Field(min_length=1)]
    """A text; a list of texts, with one result each; or a list of parts, with one result in all."""
    model: Annotated[str, StringConstraints(max_length=120)] | None = None
    """Taken and ignored: the answer names what judged."""
    policy: PolicyName | None = None
    """A policy of the library, or `layer:<name>`."""
    flag_on: Literal["review", "block"] = "review"
    """From which decision on `flagged` is true."""
    detail: bool = False
    """Whether to show scores over time and what the slow path said."""


class ErrorObject(BaseModel):
    """The `error` object of the OpenAI API."""

    message: str
    type: str
    param: str | None
    code: str


class ProblemBody(BaseModel):
    """RFC 9457 problem details, and the OpenAI `error` object beside them."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    hint: str
    retryable: bool
    request_id: str
    error: ErrorObject


class ModerationResult(BaseModel):
    """One result: the OpenAI keys, and our own."""

    model_config = ConfigDict(extra="allow")

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    decision: Literal["allow", "review", "block", "undecided"]
    input_type: Literal["text", "image", "video"]
    taxonomy: dict[str, Any]
    segments: list[dict[str, Any]]
    policy: dict[str, Any]
    versions: dict[str, str]
    degraded: bool


class ModerationResponse(BaseModel):
    """The answer of the OpenAI moderation API."""

    id: str
    model: str
    results: list[ModerationResult]


class JobRequest(Request):
    """A job: its content by `url` or `upload_id` here, or as the file of a multipart form beside these fields."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None
    """Fetched by the service, where that is switched on."""
    upload_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    """A finished upload in pieces."""
    source: Annotated[str, StringConstraints(max_length=255)] | None = None
    """What to call it; by default the name of the file."""
    policy: PolicyName | None = None
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    """Higher goes first."""
    client_ref: Annotated[str, StringConstraints(max_length=255)] | None = None
    """Given back as it is, and searchable."""
    metadata: Annotated[dict[str, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)] = {}
    """Up to 16 values of the client's own, given back as they are."""
    callback_url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Told once the job has ended, with a signature."""
    keep_evidence: bool = True
    """Whether to keep a few frames that show what the verdict speaks of."""
    retention_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long to keep the content; longer where a person has to look at it."""


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    object: Literal["moderation.job"]
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    stage: str
    source: str
    sha256: str | None
    size_bytes: int | None
    policy: str | None
    priority: int
    client_ref: str | None
    metadata: dict[str, Any]
    decision: Literal["allow", "review", "block", "undecided"] | None
    degraded: bool
    error: dict[str, Any] | None
    attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    content_until: str | None


class JobList(BaseModel):
    """One page of jobs, the newest first."""

    data: list[JobView]
    next_cursor: str | None


class ResultView(BaseModel):
    """The verdict of a job, with one page of where it was seen."""

    job_id: str
    decision: str
    """As the machine decided."""
    final_decision: str
    """As it stands: a person's, where one has decided."""
    verdict: dict[str, Any]
    segments: list[dict[str, Any]] | None = None
    timestamps: list[dict[str, Any]] | None = None
    next_cursor: str | None


class EvidenceView(BaseModel):
    """One kept frame."""

    number: int
    seconds: float
    category: str | None
    score: float | None
    width: int
    height: int
    url: str
    """Opens for five minutes, without a key."""


class UploadRequest(Request):
    """An upload in pieces."""

    size_bytes: Annotated[int, Field(ge=1)]
    source: Annotated[str, StringConstraints(max_length=255)] = "upload"


class UploadView(BaseModel):
    """How far an upload is."""

    id: str
    size_bytes: int
    offset_bytes: int
    expires_at: str
    job_id: str | None


Line = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Layer = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]


class ExampleBody(Request):
    """An example: a text, or content that was judged as a job."""

    text: Line | None = None
    job_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    violates: bool = True
    rationale: Annotated[str, StringConstraints(max_length=2000)] = ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.job_id is None):
            raise ValueError("an example is a text or a job_id")
        return self


class EditBody(Request):
    """What every edit says."""

    below: PolicyName = "default"
    """What a new layer lies on; one that is there keeps what it lies on."""
    note: Annotated[str, StringConstraints(max_length=500)] = ""


class BlockBody(EditBody):
    """Block or flag a category, known or new."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    definition: Annotated[str, StringConstraints(max_length=2000)] = ""
    examples: Annotated[list[ExampleBody], Field(max_length=32)] = []
    state: Literal["block", "flag"] = "block"


class UnblockBody(EditBody):
    """Switch a category off."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ExtendBody(EditBody):
    """Make a rule cover more."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    variants: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(max_length=32)
    ] = []
    definition: Annotated[str, StringConstraints(max_length=2000)] = ""
    examples: Annotated[list[ExampleBody], Field(max_length=32)] = []


class RevertBody(EditBody):
    """Take one edit back."""

    number: Annotated[int, Field(ge=1, le=1_000_000)]


class DryRunBody(Request):
    """Decide recent jobs again from their stored scores."""

    against: PolicyName | None = None
    """The policy in service; None takes the tenant's own."""
    category: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    """The rule whose scores to show."""


class TestCase(Request):
    """A text or a job with the decision that it should get."""

    __test__ = False  # not one for pytest

    text: Text | None = None
    job_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    decision: Literal["allow", "review", "block"]

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.job_id is None):
            raise ValueError("a case is a text or a job_id")
        return self


class TestBody(Request):
    """Cases to hold a policy against."""

    __test__ = False

    cases: Annotated[list[TestCase], Field(min_length=1, max_length=200)]


class PublishedView(BaseModel):
    """What an edit led to."""

    policy: str
    version: int
    hash: str
    changed: list[str]
    notes: list[str]


class EndpointBody(Request):
    """A place that wants to be told."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    events: Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(max_length=32)] = []
    """Event types; none means all."""
    description: Annotated[str, StringConstraints(max_length=200)] = ""


class HoldBody(Request):
    """Set or lift a legal hold."""

    hold: bool
    reason: Annotated[str, StringConstraints(min_length=1, max_length=255)]


class OwnPolicyBody(Request):
    """The policy where a request names none; null for that of the service."""

    policy: PolicyName | None
