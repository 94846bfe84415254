"""Systems that are measured: what they send, and that what cannot be read is a failure and never "safe"."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest

from eval.asking import Answer, Asking, ServerConfig, first_probability, joined
from eval.benchmarks import hatemm, safewatch_real
from eval.looking import even
from eval.metrics.safewatch import KEYS
from eval.rendering import write_tiny
from eval.systems import (
    cascade,
    fast_path,
    gpt_oss_safeguard,
    llama_guard,
    llavaguard,
    moderations,
    qwen3guard,
    safewatch,
    shieldgemma,
)
from eval.types import Prediction, Sample
from guard import plugins
from guard.errors import InvalidConfig, MissingExtra, VlmUnavailable
from slow_path.engine import Generation, Token
from slow_path.engines import scripted
from slow_path.failures import EngineFailure, FailureCode

SERVER = ServerConfig(base_url="http://127.0.0.1:9/v1", model="m", frames=2, longest_side_px=64)
POLICY = safewatch_real.tiny().policies[""]


def said(text: str, *, yes: float | None = None, words: tuple[str, str] = ("unsafe", "safe")) -> Generation:
    """One answer; `yes` is the probability of the first word at the first token."""
    tokens = None
    if yes is not None:
        top = {words[0]: math.log(yes), words[1]: math.log(1 - yes)}
        first = words[0] if yes >= 0.5 else words[1]
        tokens = (Token(text=first, logprob=top[first], top=top),)
    return Generation(text=text, finish_reason="stop", model="m", tokens=tokens, prompt_tokens=7, completion_tokens=3)


def ask(system: Asking, sample: Sample, *steps: object) -> tuple[Prediction, list]:
    """Return what a format makes of scripted answers, and the requests that it sent."""
    engine = scripted.build(scripted.Config(steps=steps))
    asking = Asking(system._format, SERVER, engine=engine)
    try:
        (prediction,) = asking.predict([sample], {"": POLICY})
    finally:
        asking.close()
    return prediction, engine.requests


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    path = write_tiny(tmp_path_factory.mktemp("hate_videos") / "hate_video_1.mp4", 1)
    return Sample(id="0123456789abcdef", kind="video", path=path)


TEXT = Sample(id="fedcba9876543210", kind="text", text="some words")
NAMES = plugins.names("system")


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_whole(name: str) -> None:
    if name == "nudenet" and find_spec("nudenet") is None:
        with pytest.raises(MissingExtra, match="nudenet"):
            plugins.module("system", name).tiny()
        return
    system = plugins.module("system", name).tiny()
    assert system.name.startswith(name)
    assert system.kinds <= {"video", "text"}
    json.dumps(system.signature)
    system.close()


def test_safewatch_needs_all_six_keys(clip: Sample) -> None:
    flags = {key: code == "C3" for code, key in KEYS.items()}
    good = f"DESCRIPTION: a street.\nGUARDRAIL: {json.dumps(flags)}\nEXPLANATION: a fight."
    prediction, requests = ask(safewatch.tiny(), clip, good)
    assert (prediction.status, prediction.flagged, prediction.scores["sexual"]) == ("ok", ("violence",), 0.0)
    assert requests[0].images == 2
    for key in KEYS.values():
        assert key in requests[0].parts[-1].text
    lacking = dict(list(flags.items())[:5])
    for bad in (json.dumps(lacking), "The video is safe.", json.dumps({**flags, KEYS["C1"]: "no"})):
        prediction, _ = ask(safewatch.tiny(), clip, bad)
        assert (prediction.status, prediction.code, prediction.flagged) == ("parse_error", "unreadable", ())


def test_llama_guard_reads_two_lines_and_takes_the_worst_frame(clip: Sample) -> None:
    prediction, requests = ask(llama_guard.tiny(), clip, said("safe", yes=0.2), said("unsafe\nS1, S10", yes=0.9))
    assert len(requests) == 2
    assert prediction.flagged == ("violence", "extremism.hate")
    assert prediction.any_score == pytest.approx(0.9)
    assert prediction.prompt_tokens == 14
    calm, _ = ask(llama_guard.tiny(), TEXT, said("safe", yes=0.2))
    assert (calm.flagged, calm.any_score) == ((), pytest.approx(0.2))
    for bad in ("unsafe", "unsafe\nS99", "Unsafe because of S1", "safe\nS1"):
        prediction, _ = ask(llama_guard.tiny(), TEXT, bad)
        assert (prediction.status, prediction.any_score) == ("parse_error", None)


def test_llavaguard_reads_json(clip: Sample) -> None:
    unsafe = '{"rating": "Unsafe", "category": "O2: Violence, harm, or cruelty", "rationale": "blood"}'
    safe = '```json\n{"rationale": "a dog", "category": "NA: None applying", "rating": "Safe"}\n```'
    prediction, _ = ask(llavaguard.tiny(), clip, safe, unsafe)
    assert (prediction.flagged, prediction.any_score) == (("violence",), 1.0)
    for bad in ('{"rating": "Fine", "category": "NA"}', '{"rating": "Unsafe", "category": "O12: x"}', "Safe"):
        assert ask(llavaguard.tiny(), clip, safe, bad)[0].status == "parse_error"


@pytest.mark.parametrize(("mode", "decision"), [("review", "review"), ("unsafe", "block"), ("safe", "allow")])
def test_qwen3guard_controversial_counts_as_asked(mode: str, decision: str) -> None:
    system = qwen3guard.build(qwen3guard.Config(base_url="http://127.0.0.1:9/v1", model="m", controversial=mode))
    prediction, _ = ask(system, TEXT, "Safety: Controversial\nCategories: Violent, Suicide & Self-Harm")
    assert prediction.decision == decision
    assert set(prediction.scores) == {"violence", "extremism.self_harm"}


def test_qwen3guard_is_strict() -> None:
    assert ask(qwen3guard.tiny(), TEXT, "Safety: Safe\nCategories: None")[0].decision == "allow"
    for bad in ("Safe", "Safety: Unsafe", "Safety: Unsafe\nCategories: Rudeness", "Safety: Maybe\nCategories: None"):
        assert ask(qwen3guard.tiny(), TEXT, bad)[0].status == "parse_error"
    with pytest.raises(InvalidConfig, match="controversial"):
        qwen3guard.build(qwen3guard.Config(base_url="http://x/v1", controversial="loose"))


def test_gpt_oss_safeguard_gets_the_policy_in_force() -> None:
    good = '{"violation": 1, "rules": ["violence"], "rationale": "a threat"}'
    prediction, requests = ask(gpt_oss_safeguard.tiny(), TEXT, good)
    assert prediction.flagged == ("violence",)
    assert all(rule.category in requests[0].system for rule in POLICY.active())
    assert ask(gpt_oss_safeguard.tiny(), TEXT, '{"violation": 0, "rules": []}')[0].any_score == 0.0
    for bad in (
        '{"violation": 1, "rules": []}',
        '{"violation": 1, "rules": ["rudeness"]}',
        '{"violation": 1, "rules": [{"id": "violence"}]}',
        '{"violation": "yes"}',
    ):
        assert ask(gpt_oss_safeguard.tiny(), TEXT, bad)[0].status == "parse_error"
    empty, _ = ask(gpt_oss_safeguard.tiny(), TEXT, "  ")
    assert (empty.status, empty.code) == ("generation_error", "vlm_empty")


def test_shieldgemma_scores_the_share_of_yes(clip: Sample) -> None:
    low, high = said("No", yes=0.1, words=("Yes", "No")), said("Yes", yes=0.8, words=("Yes", "No"))
    prediction, requests = ask(shieldgemma.tiny(), clip, low, low, low, low, low, high)
    assert len(requests) == 6  # two frames under three policies
    assert prediction.scores == {
        "sexual": pytest.approx(0.1),
        "illegal": pytest.approx(0.1),
        "violence": pytest.approx(0.8),
    }
    assert prediction.flagged == ("violence",)
    assert ask(shieldgemma.tiny(), clip, *["Perhaps"] * 6)[0].status == "parse_error"


@pytest.mark.parametrize("name", ["safewatch", "llama_guard", "llavaguard", "shieldgemma"])
def test_no_request_carries_the_name_of_the_file(name: str, clip: Sample) -> None:
    """HateMM's file names are its labels."""
    _, requests = ask(plugins.module("system", name).tiny(), clip, *["nonsense"] * 6)
    shown = " ".join([r.system + " ".join(getattr(p, "text", "") for p in r.parts) for r in requests])
    assert requests
    assert "hate_video" not in shown


def test_failures_have_codes(clip: Sample, tmp_path: Path) -> None:
    cut = Generation(text='{"C1', finish_reason="length", model="m")
    assert ask(safewatch.tiny(), clip, cut)[0].code == "vlm_truncated"
    refused = Generation(text="I cannot", finish_reason="refusal", model="m")
    assert ask(safewatch.tiny(), clip, refused)[0].code == "vlm_refused"
    slow = EngineFailure(FailureCode.TIMEOUT, "late")
    assert ask(safewatch.tiny(), clip, slow)[0].code == "vlm_timeout"
    (tmp_path / "bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and then nothing")
    broken = replace(clip, path=tmp_path / "bad.mp4")
    prediction, requests = ask(safewatch.tiny(), broken)
    assert (prediction.status, prediction.valid, requests) == ("video_error", False, [])
    with pytest.raises(VlmUnavailable):
        ask(safewatch.tiny(), clip, EngineFailure(FailureCode.UNAVAILABLE, "down"))


def test_probability_of_a_label_at_the_first_token_that_says_one() -> None:
    tokens = [
        Token(text="\n", logprob=-0.1, top={"\n": -0.1}),
        Token(text=" uns", logprob=math.log(0.6), top={" uns": math.log(0.6), "Safe": math.log(0.2)}),
    ]
    assert first_probability(tokens, "unsafe", "safe") == pytest.approx(0.75)
    assert first_probability(None, "unsafe", "safe") is None


def test_joined_takes_the_worst_of_each() -> None:
    made = joined([Answer(scores={"a": 0.2}, any_score=0.2), Answer(scores={"a": 0.7, "b": 0.1}, flagged=("a",))])
    assert (made.scores, made.flagged, made.any_score) == ({"a": 0.7, "b": 0.1}, ("a",), 0.2)
    assert list(even(8, 2)) == [2, 6]
    assert list(even(3, 8)) == [0, 1, 2]


def test_cascade_answers_each_sample_and_codes_what_it_cannot_read(tmp_path: Path) -> None:
    made = hatemm.build(hatemm.miniature(tmp_path))
    samples = [item.sample for item in made.items]
    assert samples[1].path is not None
    samples[1].path.write_bytes(b"this is text, and no video at all")
    system = cascade.tiny()
    try:
        found = {p.id: p for p in system.predict(samples, made.policies)}
    finally:
        system.close()
    assert set(found) == {sample.id for sample in samples}
    assert found[samples[1].id].code == "unsupported_media_type"
    assert found[samples[0].id].decision == "review"  # no stage here judges hate in pictures
    assert not found[samples[0].id].flagged


def test_cascade_judges_texts() -> None:
    texts = ("I hate women, they are vermin.", "Good morning, see you at six.")
    samples = [Sample(id=f"{i:016x}", kind="text", text=text) for i, text in enumerate(texts)]
    from eval.benchmarks import hatecheck

    system = fast_path.tiny()
    found = list(system.predict(samples, hatecheck.tiny().policies))
    system.close()
    assert found[0].scores["extremism.hate"] > found[1].scores["extremism.hate"]
    assert found[0].decision != "allow"


def test_moderations_maps_keys_and_rejects_other_answers() -> None:
    class Result:
        def __init__(self, plain: dict) -> None:
            self._plain = plain

        def model_dump(self, by_alias: bool) -> dict:
            assert by_alias
            return self._plain

    class Reply:
        def __init__(self, *plain: dict) -> None:
            self.results = [Result(p) for p in plain]

    scores, flagged = moderations._read(
        Reply(
            {"category_scores": {"self-harm": 0.2, "self-harm/intent": 0.6}, "categories": {"self-harm/intent": True}}
        )
    )
    assert (scores, flagged) == ({"extremism.self_harm": 0.6}, ("extremism.self_harm",))  # nothing said of the others
    for bad in (Reply(), Reply({"category_scores": {"rude": 1.0}, "categories": {}})):
        with pytest.raises(ValueError, match=r"results|category_scores"):
            moderations._read(bad)


def test_a_sample_shows_only_what_it_may() -> None:
    assert "some words" not in repr(TEXT)
    with pytest.raises(ValueError, match="path"):
        Sample(id="0" * 16, kind="video")
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Prediction(id="x", status="ok", scores={"a": float(np.float64(1.2))})
    with pytest.raises(ValueError, match="code"):
        Prediction(id="x", status="parse_error")


class Endpoint(BaseHTTPRequestHandler):
    """A moderation server that flags the word kill, and breaks on the word break."""

    seen: ClassVar[list] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(body["input"])
        Endpoint.seen.append(body["input"])
        if "break" in text:
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        hit = "kill" in text
        result = {
            "flagged": hit,
            "categories": {"violence": hit, "self-harm": False},
            "category_scores": {"violence": 0.9 if hit else 0.1, "self-harm": 0.0},
        }
        data = json.dumps({"id": "m", "model": "m", "results": [result]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_moderation_endpoint_is_asked_over_the_wire(endpoint: str, clip: Sample) -> None:
    texts = ("I will kill you", "good morning", "please break")
    samples = [Sample(id=f"{i:016x}", kind="text", text=text) for i, text in enumerate(texts)]
    system = moderations.build(moderations.Config(base_url=endpoint, frames=3, longest_side_px=64))
    found = list(system.predict([*samples, clip], {"": POLICY}))
    system.close()
    assert [p.flagged for p in found] == [("violence",), (), (), ()]
    assert found[1].scores["violence"] == pytest.approx(0.1)
    assert (found[2].status, found[2].code) == ("generation_error", "http_400")
    assert found[3].frames == 3
    pictures = [one for one in Endpoint.seen if isinstance(one, list)]
    assert len(pictures) == 3
    assert all(one[0]["image_url"]["url"].startswith("data:image/jpeg;base64,") for one in pictures)


def test_a_server_that_is_down_stops_the_run() -> None:
    system = moderations.build(moderations.Config(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(VlmUnavailable, match="cannot be reached"):
        list(system.predict([TEXT], {"": POLICY}))
