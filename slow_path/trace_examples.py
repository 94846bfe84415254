"""From kept traces to training examples in which no rule has a fixed place, number or company.

For each example the rules are drawn anew: a subset, shuffled, numbered by position, the answer cut to match (the
adaptive fine-tuning of SafeWatch, arXiv 2412.06878, does so with policy codes). What a rule means must then be read
in the prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from guard.errors import InvalidManifest
from guard.interfaces import Case
from guard.types import Policy
from slow_path import prompt
from slow_path.answer import Question
from slow_path.chat import Example
from slow_path.frames import printed, shown
from slow_path.judge import JudgeSettings
from slow_path.traces import Trace
from slow_path.train import ExampleSource
from slow_path.view import View


def source(
    traces: Sequence[Trace], load: Callable[[Trace], Case], settings: JudgeSettings, *, seed: int = 0
) -> ExampleSource:
    """Return examples drawn from the kept `traces`.

    Args:
        traces: kept and refused ones; the latter are passed over.
        load: decodes the video of a trace, with frames at the times that the trace names.
        settings: of the judge that the answers were made for.
        seed: fixes order and variation.

    Raises:
        InvalidManifest: no trace was kept.
    """
    kept = [trace for trace in traces if trace.kept]
    if not kept:
        raise InvalidManifest("There is no kept trace to learn from.", hint="Look at `refused` in the trace file.")

    def make(number: int) -> Example:
        epoch, place = divmod(number, len(kept))
        order = list(range(len(kept)))
        random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - an order of examples, no secret
        trace = kept[order[place]]
        return example(trace, load(trace), settings, seed=seed * 1_000_003 + number)

    return make


def example(trace: Trace, case: Case, settings: JudgeSettings, *, seed: int) -> Example:
    """Return one varied example of `trace`. Raises `InvalidManifest` if the frames are not those of the trace."""
    rules = subset(trace.rules, seed)
    order = seed % 9973
    policy = with_rules(case.policy, rules)
    wanted = set(trace.times_seconds)
    chosen = [i for i, t in enumerate(case.frames.pts_seconds) if printed(float(t)) in wanted]
    frames = shown(case.frames, chosen, settings.budget)
    if tuple(frame.seconds for frame in frames) != trace.times_seconds:
        raise InvalidManifest(f"The frames of {trace.id!r} are not those that its trace was made from.")
    asked = tuple(rule.category for rule in prompt.ordered(policy.active(), order))
    duration = case.media.decoded_duration_seconds or trace.times_seconds[-1]
    view = View(
        policy=policy,
        question=Question(
            rules=asked, times_seconds=trace.times_seconds, duration_seconds=duration, limits=settings.limits
        ),
        frames=frames,
        scores=case.scores,
        seed=order,
        options=settings.options,
    )
    request = view.reasoning(max_tokens=settings.max_tokens, temperature=0.0)
    return Example(request=request, answer=cut(trace.answer, asked))


def subset(rules: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return a random part of `rules`, at least one; every size is as likely."""
    rng = random.Random(f"subset:{seed}")  # noqa: S311
    return tuple(rng.sample(list(rules), rng.randint(1, len(rules))))


def with_rules(policy: Policy, rules: Sequence[str]) -> Policy:
    """Return `policy` with only `rules`."""
    return replace(policy, rules={rule: policy.rules[rule] for rule in rules if rule in policy.rules})


def cut(text: str, rules: Sequence[str]) -> str:
    """Return an answer that speaks of `rules` alone, in that order, and stays consistent."""
    whole: dict[str, Any] = json.loads(text)
    checks = {rule: whole["checks"][rule] for rule in rules}
    violated = [rule for rule in rules if checks[rule]["violated"] == "yes"]
    changed = set(violated) != set(whole["categories"])
    cited = [t for rule in violated for t in checks[rule]["evidence_seconds"]]
    span = {"start_seconds": min(cited, key=float), "end_seconds": max(cited, key=float)} if cited else None
    reason = whole["reason"] if not changed else checks[violated[0]]["why"] if violated else "No rule is broken."
    made = {
        "observations": whole["observations"],
        "checks": checks,
        "counter_evidence": whole["counter_evidence"],
        "categories": violated,
        "severity": whole["severity"] if violated else 0,
        "span": span if changed else whole["span"],
        "reason": reason,
    }
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False)
