"""From one command to a verdict: a rule given by clips judges other clips, without training and without a VLM.

The clips are rendered. Ordinary ones drift and bounce; the new rule is about a picture that jumps from place to place.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import render, write

from guard.api import Guard
from guard.config import load_settings
from guard.errors import InvalidConfig
from guard.types import UInt8Array
from policies.background import BackgroundFile
from serve import cli
from serve.failures import Exit

RULE = "custom.shaking_picture"
WIDTH, HEIGHT, FPS = 176, 128, 14
ORDINARY, SHAKING = 27, 11


def drifting(seed: int) -> Callable[[float], UInt8Array]:
    """A soft spot that moves slowly over a soft ground."""
    rng = np.random.default_rng(seed)
    colours, speed, phase, size = (
        rng.random((2, 3)),
        rng.uniform(0.2, 1.2, 2),
        rng.uniform(0, 6, 2),
        rng.uniform(12, 36),
    )
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)

    def picture(seconds: float) -> UInt8Array:
        at = 0.5 + 0.3 * np.sin(speed * seconds + phase)
        spot = np.exp(-((x - at[0] * WIDTH) ** 2 + (y - at[1] * HEIGHT) ** 2) / (2 * size**2))[..., None]
        return (255 * (spot * colours[0] + (1 - spot) * colours[1])).astype(np.uint8)

    return picture


def shaking(seed: int) -> Callable[[float], UInt8Array]:
    """A coarse pattern that is somewhere else in every frame."""
    rng = np.random.default_rng(seed)
    cell = int(rng.integers(8, 13))
    field = np.kron(rng.random((60, 60)), np.ones((cell, cell)))
    tint = rng.uniform(0.5, 1.0, 3)

    def picture(seconds: float) -> UInt8Array:
        at = np.random.default_rng([seed, round(seconds * FPS)]).integers(0, 240, 2)
        return (255 * field[at[0] : at[0] + HEIGHT, at[1] : at[1] + WIDTH, None] * tint).astype(np.uint8)

    return picture


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_example")
    for name, made, count in (("ordinary", drifting, ORDINARY), ("shaking", shaking, SHAKING)):
        (folder / name).mkdir()
        for seed in range(count):
            picture = made(seed)
            data = render(frames=14, fps=FPS, size=(WIDTH, HEIGHT), draw=lambda number, of=picture: of(number / FPS))
            write(folder / name / f"{seed:02}.mp4", data)
    return folder


@pytest.fixture(scope="module")
def background(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted by the command, on two thirds of the ordinary clips."""
    out = tmp_path_factory.mktemp("background") / "ordinary.npz"
    chosen = [str(clips / "ordinary" / f"{seed:02}.mp4") for seed in range(22)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["guard", "policy", "background", *chosen, "--out", str(out), "--progress", "none"])
        patch.setattr(cli.signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return out


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, background: Path) -> Any:
    (tmp_path / "guard.toml").write_text('detectors = ["tiny"]\nworkers = 1\n')
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setenv("GUARD_POLICY_STORE", str(tmp_path / "store.sqlite3"))
    monkeypatch.setenv("GUARD_BACKGROUND", str(background))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def scanned(guard: Any, *arguments: object) -> dict[str, dict[str, Any]]:
    _, out, err = guard("scan", *arguments, "--out", "-", "--progress", "none")
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines, err
    return {"/".join(Path(line["source"]).parts[-2:]): line for line in lines}


def held_out(clips: Path) -> list[Path]:
    return sorted((clips / "ordinary").iterdir())[22:] + sorted((clips / "shaking").iterdir())[8:]


def test_a_rule_by_examples_blocks_such_clips_and_leaves_the_others_and_the_other_rules(
    guard: Any, clips: Path, tmp_path: Path
) -> None:
    before = scanned(guard, *held_out(clips))
    examples = [item for clip in sorted((clips / "shaking").iterdir())[:8] for item in ("--example", clip)]
    code, out, _ = guard("policy", "block", "Shaking picture", *examples, "--out", tmp_path / "p.yaml")
    assert code == Exit.OK
    assert f"{RULE}: 8 examples to compare with." in out
    after = scanned(guard, *held_out(clips), "--policy", tmp_path / "p.yaml")
    assert {after[f"shaking/{seed:02}.mp4"]["decision"] for seed in range(8, SHAKING)} == {"block"}
    assert all(after[f"shaking/{seed:02}.mp4"]["categories"][RULE]["flagged"] for seed in range(8, SHAKING))
    ordinary = [after[f"ordinary/{seed:02}.mp4"] for seed in range(22, ORDINARY)]
    assert not any(line["categories"][RULE]["flagged"] for line in ordinary)
    assert sum(line["categories"][RULE]["score"] < 0.1 for line in ordinary) >= len(ordinary) / 2
    for name, line in after.items():
        others = {rule: found for rule, found in line["categories"].items() if rule != RULE}
        assert others == before[name]["categories"], name
    segments = [s for s in after["shaking/09.mp4"]["segments"] if s["category"] == RULE]
    assert segments, "the verdict says when"
    assert after["shaking/09.mp4"]["versions"]["detector:few_shot"]


def test_one_example_ranks_and_settles_nothing(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, out, _ = guard(
        "policy", "block", "Shaking picture", "--example", clips / "shaking" / "00.mp4", "--out", tmp_path / "p.yaml"
    )
    assert code == Exit.OK
    assert "1 example to compare with. So few settle hardly any video" in out
    itself = scanned(guard, clips / "shaking" / "00.mp4", "--policy", tmp_path / "p.yaml")["shaking/00.mp4"]
    assert (itself["decision"], itself["categories"][RULE]["score"]) == ("block", 1.0), "the example itself is known"
    found = scanned(guard, *held_out(clips), "--policy", tmp_path / "p.yaml")
    scores = {name: line["categories"][RULE]["score"] for name, line in found.items()}
    worst = min(score for name, score in scores.items() if name.startswith("shaking"))
    assert worst > max(score for name, score in scores.items() if name.startswith("ordinary"))
    assert {line["decision"] for name, line in found.items() if name.startswith("shaking")} <= {"review", "block"}
    assert all(line["decision"] != "allow" for line in found.values() if line["categories"][RULE]["score"] >= 0.1)


def test_unblocking_extending_and_adding_examples_take_effect(guard: Any, clips: Path, tmp_path: Path) -> None:
    shown = sorted((clips / "shaking").iterdir())
    first = [item for clip in shown[:4] for item in ("--example", clip)]
    more = [item for clip in shown[4:8] for item in ("--example", clip)]
    assert guard("policy", "block", "Shaking picture", *first, "--layer", "acme", "--base", "screen")[0] == Exit.OK
    code, out, _ = guard("policy", "example", "Shaking picture", *more, "--layer", "acme")
    assert (code, f"{RULE}: 8 examples to compare with." in out) == (Exit.OK, True)
    clip = shown[10]
    assert scanned(guard, clip, "--policy", "layer:acme")["shaking/10.mp4"]["categories"][RULE]["flagged"]
    assert guard("policy", "unblock", "Shaking picture", "--layer", "acme")[0] == Exit.OK
    assert RULE not in scanned(guard, clip, "--policy", "layer:acme")["shaking/10.mp4"]["categories"]
    extended = [item for clip in shown[:8] for item in ("--example", clip)]
    assert guard("policy", "extend", "fighting", *extended, "--layer", "more", "--base", "screen")[0] == Exit.OK
    line = scanned(guard, clip, "--policy", "layer:more")["shaking/10.mp4"]
    (own,) = [
        rule for rule in line["categories"] if rule not in {"violence.fighting", "illegal.fire", "accidents.road"}
    ]
    assert (line["decision"], line["categories"][own]["flagged"]) == ("block", True)


def test_an_example_may_be_gone_once_it_was_seen_and_one_never_seen_is_said(
    guard: Any, clips: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.mp4"
    kept.write_bytes((clips / "shaking" / "00.mp4").read_bytes())
    guard("policy", "block", "Shaking picture", "--example", kept, "--out", tmp_path / "p.yaml")
    kept.unlink()
    found = scanned(guard, clips / "shaking" / "09.mp4", "--policy", tmp_path / "p.yaml")["shaking/09.mp4"]
    assert found["categories"][RULE]["score"] is not None
    (tmp_path / "store.sqlite3").unlink()
    code, out, _ = guard(
        "scan", clips / "shaking" / "09.mp4", "--policy", tmp_path / "p.yaml", "--out", "-", "--progress", "none"
    )
    line = json.loads(out)
    assert (line["decision"], line["categories"][RULE]["score"]) == ("review", None)
    assert "no configured stage can judge" in line["rationale"]
    code, out, _ = guard("policy", "lint", tmp_path / "p.yaml")
    assert code == Exit.FAIL_ON_MATCHED
    assert "unjudgeable" in out


def test_content_without_a_file_can_be_an_example_once_it_was_remembered(
    guard: Any, clips: Path, tmp_path: Path
) -> None:
    """What a service does: the clip of a job is an example by its hash, and lies nowhere under its name."""
    from guard.types import Exemplar
    from policies import commands
    from policies.personalize import By
    from serve.policy_judging import prepare, remember

    content = [(clips / "shaking" / f"{seed:02}.mp4").read_bytes() for seed in range(2)]
    examples = [
        Exemplar(rule="", violates=True, source=f"job-{i}", sha256=hashlib.sha256(data).hexdigest())
        for i, data in enumerate(content)
    ]
    target = commands.Target(layer="acme", below="screen")
    policy = commands.block("Shaking picture", target, By(author="ann"), examples=examples).policy
    settings = load_settings()
    assert prepare(settings, policy).counted == ()
    assert [remember(settings, data) for data in content] == [e.sha256 for e in examples]
    assert prepare(settings, policy).counted == ((RULE, 2),)


def test_a_background_of_another_encoder_is_refused_with_the_command(
    guard: Any, clips: Path, tmp_path: Path, background: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard("policy", "block", "Shaking picture", "--example", clips / "shaking" / "00.mp4", "--out", tmp_path / "p.yaml")
    made = BackgroundFile.load(background)
    foreign = BackgroundFile(vectors=made.vectors, encoder="0" * 16, clips=made.clips)
    foreign.save(tmp_path / "foreign.npz")
    monkeypatch.setenv("GUARD_BACKGROUND", str(tmp_path / "foreign.npz"))
    with pytest.raises(InvalidConfig, match=f"is of the encoder {'0' * 16}") as refused:
        Guard.load(load_settings(policy=str(tmp_path / "p.yaml")))
    assert "guard policy background" in refused.value.hint
    monkeypatch.setenv("GUARD_BACKGROUND", str(tmp_path / "none.npz"))
    code, _, err = guard("scan", clips, "--policy", tmp_path / "p.yaml", "--out", "-")
    assert (code, "no background of ordinary clips" in err) == (Exit.USAGE, True)


def test_a_background_of_too_few_clips_is_refused(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, _, err = guard("policy", "background", clips / "shaking", "--out", tmp_path / "b.npz")
    assert (code, "at least 20 different clips; 11 of 11" in err) == (Exit.USAGE, True)
    assert not (tmp_path / "b.npz").exists()


def test_the_shipped_background_is_of_the_shipped_encoder() -> None:
    """Fails where the weights were changed: fit it again, see docs/policies.md."""
    from fast_path.detectors import tiny
    from fast_path.embedder import embedder_of
    from policies.background import SHIPPED, background_for

    embedder = embedder_of(tiny.build(tiny.Config()))
    assert embedder is not None
    assert [file.stem for file in SHIPPED.glob("*.npz")] == [embedder.fingerprint]
    assert len(background_for(embedder.fingerprint).whitened) > 100


def test_the_encoder_embeds_a_clip_once_for_detector_and_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    from builders import frames

    from fast_path.detectors import tiny
    from fast_path.embedder import embedder_of
    from guard.interfaces import score_frames

    detector = tiny.tiny()
    before = score_frames(detector, frames(count=6, side=64, burst=3))
    calls = []
    real = detector.encoder.embed
    monkeypatch.setattr(detector.encoder, "embed", lambda clips: calls.append(len(clips)) or real(clips))
    embedder = embedder_of(detector)
    assert embedder is not None
    assert embedder_of(detector) is not None
    shown = frames(count=6, side=64, burst=3)
    after = score_frames(detector, shown)
    moments, seconds = embedder.embed(shown)
    assert calls == [2]
    assert (moments.shape[0], len(seconds)) == (2, 2)
    assert np.array_equal(before.probability, after.probability)
    other = embedder.embed(frames(count=6, side=64, burst=3, fill=9))[0]
    assert calls == [2, 2], "another picture is embedded anew"
    assert not np.array_equal(other, moments)
