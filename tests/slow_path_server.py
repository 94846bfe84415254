"""A local HTTP server in the place of a VLM, for fault injection: it answers as told, or by the colours it is shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np

from slow_path import rendered
from tests.test_slow_path_vllm_server import Reply, completion

__all__ = ["colour_of", "honest", "properties", "tokens_of", "with_tokens"]


def properties(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the form that a request asks for, or None for a yes/no question."""
    form = body.get("response_format")
    return None if form is None else dict(form["json_schema"]["schema"]["properties"])


def shown(body: dict[str, Any]) -> list[tuple[float, str | None]]:
    """Return time and colour of every frame of a request."""
    found: list[tuple[float, str | None]] = []
    time = 0.0
    for part in body["messages"][-1]["content"]:
        if part["type"] == "text" and part["text"].startswith("Frame at "):
            time = float(part["text"].split()[2])
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            found.append((time, colour_of(picture[:, :, ::-1])))
    return found


def colour_of(picture: np.ndarray) -> str | None:
    """Return the colour of the task that a picture shows, read from its pixels."""
    near = {c: int((np.abs(picture.astype(int) - rgb).max(axis=-1) < 45).sum()) for c, rgb in rendered.COLOURS.items()}
    best = max(near, key=lambda colour: near[colour])
    return best if near[best] > 0.02 * picture.shape[0] * picture.shape[1] else None


def honest(body: dict[str, Any], *, lie: bool = False, p: float = 0.97) -> Reply:
    """Answer rules such as `custom.red_circle` by colour alone, rightly or, with `lie`, the other way round."""
    seen = shown(body)
    form = properties(body)
    if form is None:
        task = body["messages"][-1]["content"][-1]["text"]
        rule = next(word for word in task.split() if word.startswith("custom.")).rstrip("?")
        return with_tokens("yes" if (_times(rule, seen) != []) != lie else "no", p)
    return with_tokens(json.dumps(answer(form, seen, lie=lie), separators=(",", ":")), p)


def answer(form: dict[str, Any], seen: list[tuple[float, str | None]], *, lie: bool = False) -> dict[str, Any]:
    """Return a consistent answer in the form asked for."""
    checks = {}
    for rule in form["checks"]["properties"]:
        times = _times(rule, seen)
        times = ([] if times else [seen[0][0]]) if lie else times
        checks[rule] = {"evidence_seconds": times[:1], "why": "colour", "violated": "yes" if times else "no"}
    found = [rule for rule, check in checks.items() if check["violated"] == "yes"]
    cited = [time for rule in found for time in checks[rule]["evidence_seconds"]]
    return {
        "observations": [{"start_seconds": seen[0][0], "end_seconds": seen[-1][0], "text": "shapes"}],
        "checks": checks,
        "counter_evidence": [],
        "categories": found,
        "severity": 2 if found else 0,
        "span": {"start_seconds": min(cited), "end_seconds": max(cited)} if found else None,
        "reason": "Shapes.",
    }


def _times(rule: str, seen: list[tuple[float, str | None]]) -> list[float]:
    wanted = rule.removeprefix("custom.").partition("_")[0]
    return [time for time, colour in seen if colour == wanted]


def with_tokens(text: str, p: float, **extra: Any) -> Reply:
    """Return `text` as a server with log-probabilities gives it: labels at probability `p` against their rival."""
    status, headers, body = completion(text, **extra)
    body["choices"][0]["logprobs"] = {"content": tokens_of(text, p)}
    return status, headers, body


def tokens_of(text: str, p: float) -> list[dict[str, Any]]:
    """Return the tokens of `text`, labels standing alone."""
    pieces = text.replace("yes", "\x00yes\x00").replace('"no"', '"\x00no\x00"').split("\x00")
    rivals = {"yes": "no", "no": "yes"}
    made = []
    for piece in (piece for piece in pieces if piece):
        chance = p if piece in rivals else 0.999
        top = [{"token": piece, "logprob": float(np.log(chance)), "bytes": None}]
        if piece in rivals:
            top.append({"token": rivals[piece], "logprob": float(np.log(1 - chance)), "bytes": None})
        made.append({"token": piece, "logprob": float(np.log(chance)), "bytes": None, "top_logprobs": top})
    return made
