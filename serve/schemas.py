"""What requests may say and what answers look like: the models behind the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

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


class Metadata(Request):
    """Up to 16 values of the client's own, given back as they are."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]
