"""The slow path on a real vLLM server with small models: validity, speed, what the verdicts are worth, injection.

    python benchmarks/slow_vlm.py train --work DIR      a VLM from scratch on rendered clips; resumes
    python benchmarks/slow_vlm.py measure --work DIR    what it is worth behind vLLM; resumes
    python benchmarks/slow_vlm.py adapt --work DIR      `guard traces`, `guard train slow`, and the adapter behind vLLM

vLLM's own Python is found as `guard serve-vlm` finds it (GUARD_VLLM_PYTHON, or `.venv-vllm`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jsonschema
import numpy as np

from guard.interfaces import Case
from guard.types import Judgement
from slow_path import rendered, rendered_examples, rendered_files, server, tiny_vlm, warmup
from slow_path.engine import Generation, Request
from slow_path.engines import vllm_server
from slow_path.judge import JudgeSettings, from_url
from slow_path.rendered_examples import HELD_OUT, Item
from slow_path.server import Server, ServerSettings
from slow_path.train import TrainSettings, fit

SHAPE = tiny_vlm.Shape(hidden=64, layers=4, heads=2, vision_hidden=96, vision_layers=2, vocabulary=420, context=2048)
JUDGE = replace(
    rendered_examples.SETTINGS, mode="reason", samples=1, answer_attempts=1, max_tokens=700, deadline_seconds=600.0
)


def train(work: Path, given: argparse.Namespace) -> bool:
    """Go on with the training in `work` for at most `minutes`; return whether it is done.

    Three steps: conclusions are drawn from what frames are said to show, frames become words, and then both at once.
    """
    until = time.monotonic() + 60 * given.minutes
    base, told, seeing = work / "base", work / "told", work / "seeing"
    common: dict[str, Any] = {"batch": 16, "lora_rank": 0, "warmup_steps": 50, "save_every": 50}
    if not (told / "config.json").exists():
        if not (base / "config.json").exists():
            tiny_vlm.make(base, rendered_examples.corpus(), SHAPE, phrases=rendered_examples.PHRASES)
        reason = TrainSettings(steps=given.told_steps, learning_rate=3e-3, **common)
        fit(base, rendered_examples.told_example, told, reason, budget_seconds=until - time.monotonic())
    if (told / "config.json").exists() and not (seeing / "warm.json").exists():
        shutil.copytree(told, seeing, ignore=shutil.ignore_patterns("state"), dirs_exist_ok=True)
        accuracy = warmup.warm_vision(seeing, steps=given.vision_steps)
        (seeing / "warm.json").write_text(json.dumps({"accuracy": accuracy, "steps": given.vision_steps}))
    if not (seeing / "warm.json").exists():
        return False
    see = TrainSettings(steps=given.steps, learning_rate=2e-3, loss_per="example", **common)
    left = until - time.monotonic()
    return fit(seeing, rendered_examples.example, work / "trained", see, budget_seconds=left).steps == see.steps


async def generate(
    url: str, requests: Sequence[Request], concurrency: int
) -> tuple[list[Generation | Exception], float]:
    config = vllm_server.Config(base_url=url, concurrency=concurrency, request_timeout_seconds=600)
    engine = vllm_server.build(config)
    started = time.perf_counter()
    try:
        made = await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)
    finally:
        await engine.close()
    return list(made), time.perf_counter() - started  # type: ignore[arg-type]


def validity(url: str, count: int) -> dict[str, Any]:
    """Sample `count` answers at temperature 1 and hold each against its schema."""
    views = [rendered_examples.view(HELD_OUT + i) for i in range(count)]
    requests = [replace(v.reasoning(max_tokens=700, temperature=1.0), top_logprobs=0) for v in views]
    made, _ = asyncio.run(generate(url, requests, 64))
    return {"asked": count, "schema_valid": sum(map(fits, requests, made))}


def fits(request: Request, generation: Generation | Exception) -> bool:
    """Whether an answer is there, whole, and what its schema says."""
    if not isinstance(generation, Generation) or generation.finish_reason != "stop":
        return False
    try:
        jsonschema.validate(json.loads(generation.text), dict(request.schema or {}))
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"not valid: {str(error)[:300]}", file=sys.stderr)
        return False
    return True


def speed(running: Server, count: int) -> list[dict[str, Any]]:
    rows = []
    for place, concurrency in enumerate((1, 8, 32)):
        # Clips that no earlier row has shown, so that only what requests share can come from the cache.
        first = HELD_OUT + 100_000 * (place + 1)
        asked = [rendered_examples.view(first + i).reasoning(max_tokens=700, temperature=0.0) for i in range(count)]
        before = running.counters()
        made, seconds = asyncio.run(generate(running.url, asked, concurrency))
        after = running.counters()
        delta = {k: after[k] - before.get(k, 0.0) for k in after if k.startswith("vllm:prefix_cache")}
        done = [g for g in made if isinstance(g, Generation)]
        rows.append(
            {
                "concurrency": concurrency,
                "answers_per_second": round(len(done) / seconds, 2),
                "completion_tokens_per_second": round(sum(g.completion_tokens for g in done) / seconds, 1),
                "prefix_cache_hit_rate": round(
                    delta["vllm:prefix_cache_hits_total"] / max(1.0, delta["vllm:prefix_cache_queries_total"]), 3
                ),
            }
        )
    return rows


def one_token_speed(running: Server, count: int) -> dict[str, Any]:
    """All rules of a video in turn: every question after the first should find the frames in the cache."""
    before, started, asked = running.counters(), time.perf_counter(), 0
    for seed in range(HELD_OUT + 900_000, HELD_OUT + 900_000 + count):
        view = rendered_examples.view(seed)
        asyncio.run(generate(running.url, [view.scoring(rule) for rule in view.question.rules], 1))
        asked += len(view.question.rules)
    seconds = time.perf_counter() - started
    after = running.counters()
    hits = after["vllm:prefix_cache_hits_total"] - before["vllm:prefix_cache_hits_total"]
    queries = after["vllm:prefix_cache_queries_total"] - before["vllm:prefix_cache_queries_total"]
    return {"questions_per_second": round(asked / seconds, 2), "prefix_cache_hit_rate": round(hits / queries, 3)}


def judged(
    url: str, cases: Sequence[Case], settings: JudgeSettings = JUDGE, *, model: str | None = None
) -> list[Judgement]:
    async def run() -> list[Judgement]:
        judge = from_url(url, model=model, settings=settings, concurrency=32, request_timeout_seconds=600)
        try:
            return await judge.judge(cases)
        finally:
            await judge.close()

    return asyncio.run(run())


def shuffled(case: Case) -> Case:
    """The same pictures at other times."""
    order = np.random.default_rng(case.seed).permutation(len(case.frames.pts_seconds))
    return replace(case, frames=replace(case.frames, images=np.ascontiguousarray(case.frames.images[order])))


def blanked(case: Case) -> Case:
    return replace(case, frames=replace(case.frames, images=np.full_like(case.frames.images, 30)))


def marks(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Hold judgements against the truth; an answer that is none counts as wrong."""
    right: dict[str, list[bool]] = {"presence": [], "order": []}
    whole, errors, observed = [], [], []
    for item, judgement in zip(items, judgements, strict=True):
        said = {check.rule: check for check in judgement.checks}
        whole.append(judgement.status == "ok" and frozenset(judgement.categories) == item.violated)
        for rule in item.rules:
            true = rendered.evidence(item.clip, rule)
            check = said.get(rule)
            kind = "order" if "_before_" in rule else "presence"
            right[kind].append(check is not None and check.violated == ("yes" if true else "no"))
            if true and check is not None and check.violated == "yes":
                errors += [min(abs(t - c) for t in true) for c in check.evidence_seconds]
        told = {o.start_seconds: o.text for o in judgement.observations}
        observed += [told.get(t) == rendered.seen_at(item.clip, i) for i, t in enumerate(item.clip.times_seconds)]
    rules = right["presence"] + right["order"]
    return {
        "clips": len(items),
        "answers_ok": sum(j.status == "ok" for j in judgements),
        "rule_accuracy": round(sum(rules) / len(rules), 3),
        "presence_accuracy": round(sum(right["presence"]) / len(right["presence"]), 3),
        "order_accuracy": round(sum(right["order"]) / len(right["order"]), 3),
        "clip_accuracy": round(sum(whole) / len(whole), 3),
        "mean_error_cited_seconds": round(statistics.fmean(errors), 3) if errors else None,
        "frames_described_rightly": round(sum(observed) / len(observed), 3),
        "always_no_rule_accuracy": round(1 - sum(len(i.violated) for i in items) / sum(len(i.rules) for i in items), 3),
    }


def quality(url: str, count: int) -> dict[str, Any]:
    items = [rendered_examples.item(HELD_OUT + 2_000_000 + i) for i in range(count)]
    cases = [rendered_examples.case(item) for item in items]
    return {
        "frames_as_they_are": marks(items, judged(url, cases)),
        "frames_shuffled": marks(items, judged(url, [shuffled(c) for c in cases])),
        "frames_removed": marks(items, judged(url, [blanked(c) for c in cases])),
    }


SCANNED_POLICIES = (
    ("custom.red_circle", "custom.blue_square", "custom.green_before_yellow"),
    ("custom.yellow_triangle", "custom.green_circle", "custom.red_before_blue"),
    ("custom.blue_triangle", "custom.red_square", "custom.blue_before_red"),
)


def scanned(url: str | None, count: int) -> dict[str, Any]:
    """Write clips as video files, scan them with `guard scan` (and `--slow URL`), and hold its verdicts against the
    truth."""
    decisions: Counter[str] = Counter()
    right: list[bool] = []
    off: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        for number, rules in enumerate(SCANNED_POLICIES):
            folder = Path(name) / str(number)
            (folder / "clips").mkdir(parents=True)
            clips = {
                f"{i:03}.mp4": rendered.draw_clip(HELD_OUT + 6_000_000 + 1000 * number + i)
                for i in range(count // len(SCANNED_POLICIES))
            }
            for file, clip in clips.items():
                rendered_files.write_clip(folder / "clips" / file, clip)
            rendered_files.write_policy(folder / "policy.yaml", rules)
            for verdict in scan(folder, url):
                clip = clips[Path(verdict["source"]).name]
                shown = {rule: rendered_files.seen_between(clip, rule) for rule in rules}
                decisions[verdict["decision"]] += 1
                right.append(verdict["decision"] == ("block" if any(shown.values()) else "allow"))
                checks = (verdict["judgement"] or {}).get("checks", ())
                for check in checks:
                    if check["violated"] == "yes" and shown[check["rule"]]:
                        off += [distance(t, shown[check["rule"]]) for t in check["evidence_seconds"]]
    return {
        "clips": len(right),
        "decisions": dict(decisions),
        "right": sum(right),
        "right_where_decided": f"{sum(right)} of {decisions['allow'] + decisions['block']}",
        "mean_distance_of_cited_seconds": round(statistics.fmean(off), 3) if off else None,
    }


def scan(folder: Path, url: str | None) -> list[dict[str, Any]]:
    (folder / "guard.toml").write_text('detectors = ["flash"]\nworkers = 1\n')
    argv = [sys.executable, "-m", "serve.cli", "scan", str(folder / "clips"), "--policy", str(folder / "policy.yaml")]
    argv += ["--out", str(folder / "run"), "--progress", "none", *(["--slow", url] if url else [])]
    environment = os.environ | {"GUARD_CONFIG": str(folder / "guard.toml"), "GUARD_SLOW_PROFILE": "small"}
    subprocess.run(argv, env=environment, check=False, capture_output=True)
    return [json.loads(line) for line in (folder / "run" / "results.jsonl").read_text().splitlines()]


def distance(time: float, stretches: Sequence[tuple[float, float]]) -> float:
    """How far a cited time lies from the nearest stretch that shows the violation; 0 inside one."""
    return min(max(start - time, time - end, 0.0) for start, end in stretches)


def injection(url: str, count: int) -> dict[str, Any]:
    """Verdicts that change when words are painted over a clip that is otherwise the same."""
    texts = rendered.LIES + rendered.FALSE_ALARMS
    seeds = [HELD_OUT + 3_000_000 + i for i in range(count)]
    plain = [rendered_examples.item(seed) for seed in seeds]
    painted = [rendered_examples.item(seed, text=texts[i % len(texts)]) for i, seed in enumerate(seeds)]
    found: dict[str, Any] = {"clips": count, "texts": len(texts)}
    for name, defended in (("defended", True), ("undefended", False)):
        settings = replace(JUDGE, options=replace(JUDGE.options, defended=defended))
        without = judged(url, [rendered_examples.case(i) for i in plain], settings)
        with_text = judged(url, [rendered_examples.case(i) for i in painted], settings)
        pairs = list(zip(plain, without, with_text, strict=True))
        found[name] = {
            "verdicts_changed": sum(a.categories != b.categories or a.status != b.status for _, a, b in pairs),
            "violations_lost": sum(bool(set(a.categories) & i.violated - set(b.categories)) for i, a, b in pairs),
            "accuracy_without_text": marks(plain, without)["rule_accuracy"],
            "accuracy_with_text": marks(painted, with_text)["rule_accuracy"],
        }
    return found


def measure(work: Path, out: Path, names: Sequence[str], count: int, clips: int) -> None:
    """Measure the models `names`; what `out` holds already is kept, so that a run that stopped goes on."""
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    report["machine"] = f"{len(os.sched_getaffinity(0))} cores {platform.machine()}, shared with other work, no GPU"
    if "random" in names and not (work / "random" / "config.json").exists():
        tiny_vlm.make(work / "random", rendered_examples.corpus(), SHAPE, phrases=rendered_examples.PHRASES, seed=9)
    for name in names:
        settings = ServerSettings(
            port=server.free_port(),
            images=8,
            max_model_len=2048,
            kv_cache_gib=1,
            threads=1,
            # Prompts of 75 tokens: the CPU's default block of 128 would never be full, and only full ones are cached.
            extra=("--block-size", "32"),
        )
        with server.running(str(work / name), settings, log=work / f"{name}.log", ready_seconds=1200) as running:
            parts: dict[str, Callable[[], Any]] = {}
            if name == "trained":
                parts["quality"] = lambda: quality(running.url, clips)
                parts["scan_with_slow"] = lambda: scanned(running.url, 45)
                parts["scan_fast_path_alone"] = lambda: scanned(None, 9)
                parts["injection"] = lambda: injection(running.url, 33)
                parts["speed"] = lambda: speed(running, 24)
            parts["one_token_questions"] = lambda: one_token_speed(running, 10)
            parts["validity"] = lambda: validity(running.url, count)
            for part, make in parts.items():
                if part not in report.setdefault(name, {}):
                    report[name][part] = make()
                    out.write_text(json.dumps(report, indent=1) + "\n")
                    print(name, part, json.dumps(report[name][part]), flush=True)


def adapt(work: Path, out: Path, clips: int, steps: int) -> None:
    """Let the trained model teach one that has not yet seen frames and words together, with the project's commands."""
    home = work / "adapt"
    home.mkdir(exist_ok=True)
    rules = SCANNED_POLICIES[0]
    made = [(f"{i:03}.mp4", rendered.draw_clip(7_000_000 + i), "train") for i in range(clips)]
    for file, clip, _ in made:
        if not (home / file).exists():
            rendered_files.write_clip(home / file, clip)
    rendered_files.write_policy(home / "policy.yaml", rules)
    rendered_files.write_manifest(home / "manifest.jsonl", made, rules)
    settings = ServerSettings(port=server.free_port(), images=8, max_model_len=2048, kv_cache_gib=1, threads=1)
    with server.running(str(work / "trained"), settings, log=work / "teacher.log", ready_seconds=1200) as teacher:
        traces = command(home, "traces", "manifest.jsonl", "--slow", teacher.url, "--out", "traces.jsonl")
    # By absolute path: traces are made under a policy, not under the name of a folder.
    learn = ("--traces", "traces.jsonl", "--manifest", "manifest.jsonl", "--model", str((work / "seeing").absolute()))
    trained = command(
        home, "train", "slow", *learn, "--out", "adapter", "--steps", str(steps), "--learning-rate", "0.004"
    )
    settings = replace(settings, adapters={"tuned": (home / "adapter").absolute()}, served_name="student")
    items = [Item(clip=rendered.draw_clip(HELD_OUT + 8_000_000 + i), rules=rules) for i in range(100)]
    cases = [rendered_examples.case(item) for item in items]
    with server.running(str(work / "seeing"), settings, log=work / "student.log", ready_seconds=1200) as running:
        before = judged(running.url, cases, model="student")
        after = judged(running.url, cases, model="tuned")
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    report["adapter"] = {
        "traces": traces,
        "training": trained,
        "answers_changed": sum(a.checks != b.checks for a, b in zip(before, after, strict=True)),
        "student": marks(items, before),
        "student_with_adapter": marks(items, after),
    }
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["adapter"], indent=1))


def command(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a `guard` command in `folder` under its policy and return the JSON that it prints."""
    (folder / "guard.toml").write_text('detectors = ["flash"]\nworkers = 1\n')
    root = Path(__file__).resolve().parents[1]
    argv = [sys.executable, "-m", "serve.cli", *arguments, "--policy", "policy.yaml", "--json", "--progress", "none"]
    environment = os.environ | {
        "GUARD_CONFIG": str(folder / "guard.toml"),
        "GUARD_SLOW_PROFILE": "small",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    made: dict[str, Any] = json.loads(done.stdout)
    return {key: value for key, value in made.items() if key not in ("file", "folder")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "measure", "adapt"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--told-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--vision-steps", type=int, default=700)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop training after so long; it resumes")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--adapt-clips", type=int, default=60)
    parser.add_argument("--adapt-steps", type=int, default=120)
    parser.add_argument("--models", nargs="+", choices=("trained", "random"), default=("trained", "random"))
    parser.add_argument("--clips", type=int, default=120)
    given = parser.parse_args()
    if given.step == "train":
        if not train(given.work, given):
            raise SystemExit("The time is up before the training is; run this again.")
    elif given.step == "adapt":
        adapt(given.work, given.out, given.adapt_clips, given.adapt_steps)
    else:
        measure(given.work, given.out, given.models, given.answers, given.clips)


if __name__ == "__main__":
    main()
