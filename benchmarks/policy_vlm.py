"""Block, unblock and extend through a VLM, on rendered clips whose truth is known: does the verdict follow the policy?

    python benchmarks/policy_vlm.py --endpoint URL --model NAME --profile default    any OpenAI-compatible server
    python benchmarks/policy_vlm.py --weights DIR                                    starts vLLM on a small model

Edits are made by `policies.personalize`, as by `guard policy`. Every clip is judged before and after an edit:

- *stays unsafe*, *stays safe*: a rule is blocked that the clip does not violate; nothing may change.
- *newly blocked*: the rule that the clip violates is blocked. *Newly allowed*: it is unblocked.
- *exception*: a rule for a whole colour stays, one shape of it is unblocked, and is told as an allowed line. Policy
  Exception Recall is the share of clips of that shape that are let pass; the others of the colour must stay unsafe.

Consistency: the same question with the rules in three orders, and in three wordings. An answer that is none counts as
wrong, and is counted. A profile that sends no definitions, such as `small`, has no wording to vary: null.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from guard.interfaces import Case
from guard.types import Judgement, Policy
from policies import personalize
from policies.canonical import make_policy
from policies.compose import compose
from policies.edits import History
from policies.personalize import By
from slow_path import rendered, rendered_examples, server
from slow_path.judge import from_url
from slow_path.server import ServerSettings
from slow_path.settings import JudgeSettings, profile

BY = By(author="benchmark", at="2026-01-01T00:00:00+00:00")
EMPTY = make_policy(name="empty", version="1", rules={})
FIRST_SEED = rendered_examples.HELD_OUT + 7_000_000
ORDERS = 3
WORDINGS: dict[str, Callable[[str], str]] = {
    "is shown": lambda rule: rendered.rule_text(rule),
    "appears": lambda rule: _plain(rule, "appears", "appears before"),
    "the video contains": lambda rule: f"The video contains {_plain(rule, '', 'and later').strip()}.",
}
Judging = Callable[[Sequence[Case]], list[Judgement]]


def _plain(rule: str, verb: str, order: str) -> str:
    name = rule.removeprefix("custom.")
    if "_before_" in name:
        first, then = name.split("_before_")
        return f"{first} {order} {then}"
    return f"a {name.replace('_', ' ')} {verb}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One clip before and after an edit."""

    clip: rendered.Clip
    before: Policy
    after: Policy
    unsafe_before: bool
    unsafe_after: bool


def blocked(rules: Sequence[str], history: History | None = None) -> History:
    """Return the history of a layer in which each of `rules` was blocked by one command."""
    history = history or History(name="user")
    for rule in rules:
        history = personalize.block(history, rule, below=EMPTY, by=BY, definition=rendered.rule_text(rule)).history
    return history


def effective(history: History) -> Policy:
    """Return what a judge is told: the composed policy, its rules named as the small model knows them."""
    policy = compose(EMPTY, [history.layer()]).policy
    return replace(policy, rules={c: replace(r, name="shape") for c, r in policy.rules.items()})


def pairs(kind: str, count: int) -> list[Pair]:
    """Return `count` clips with an edit of `kind`."""
    made: list[Pair] = []
    for seed in range(FIRST_SEED, FIRST_SEED + 50 * count):
        clip = rendered.draw_clip(seed)
        rng = np.random.default_rng((seed, 6))
        true = [r for r in rendered.RULES if rendered.evidence(clip, r)]
        false = [str(r) for r in rng.permutation([r for r in rendered.RULES if r not in true])]
        hit = str(rng.choice(true))
        start = {"stays unsafe": [hit, false[0]], "newly allowed": [hit, false[0]]}.get(kind, false[:2])
        history = blocked(start)
        if kind == "newly allowed":
            edited = personalize.unblock(history, hit, below=EMPTY, by=BY).history
        else:
            edited = blocked([hit if kind == "newly blocked" else false[2]], history)
        made.append(
            Pair(
                clip=clip,
                before=effective(history),
                after=effective(edited),
                unsafe_before=kind in {"stays unsafe", "newly allowed"},
                unsafe_after=kind in {"stays unsafe", "newly blocked"},
            )
        )
        if len(made) == count:
            break
    return made


def exceptions(count: int, *, exempt: bool) -> list[Pair]:
    """Return clips of one colour under a rule for it, before and after one of its shapes is unblocked.

    With `exempt` the clip shows that shape alone, and must pass afterwards; else it shows another one, and must not.
    """
    made: list[Pair] = []
    for seed in range(FIRST_SEED, FIRST_SEED + 500 * count):
        clip = rendered.draw_clip(seed)
        shown = {(e.colour, e.shape) for e in clip.events}
        colour = clip.events[0].colour
        own = {shape for c, shape in shown if c == colour}
        if len(own) != 1:
            continue
        shape = next(iter(own)) if exempt else next(s for s in rendered.SHAPES if s not in own)
        rule, child = f"custom.{colour}", f"custom.{colour}.{shape}"
        whole = personalize.block(History(name="user"), rule, below=EMPTY, by=BY, definition=f"{colour} is shown")
        part = personalize.block(whole.history, child, below=EMPTY, by=BY, definition=f"{colour}_{shape} is shown")
        edited = personalize.unblock(part.history, child, below=EMPTY, by=BY).history
        if child not in compose(EMPTY, [edited.layer()]).policy.rules:
            edited = _off(part.history, child)
        made.append(
            Pair(clip=clip, before=effective(whole.history), after=effective(edited), unsafe_before=True,
                 unsafe_after=not exempt)
        )  # fmt: skip
        if len(made) == count:
            break
    return made


def _off(history: History, child: str) -> History:
    """Unblock a shape that the layer below knows: the exemption then stays in the policy as a rule that is off."""
    below = compose(EMPTY, [history.layer()]).policy
    return personalize.unblock(History(name="edit"), child, below=below, by=BY).history


def case_of(clip: rendered.Clip, policy: Policy, *, seed: int | None = None) -> Case:
    """Return the clip under `policy`, every active rule in question."""
    rules = tuple(rule.category for rule in policy.active())
    made = rendered_examples.case(rendered_examples.Item(clip=clip, rules=rules))
    return replace(made, policy=policy, seed=made.seed if seed is None else seed)


def unsafe(judgement: Judgement) -> bool | None:
    """Whether some rule was found violated; None where there is no answer."""
    return None if judgement.status != "ok" else bool(judgement.categories)


def matrix(judging: Judging, count: int) -> dict[str, Any]:
    """Accuracy by case, before and after the edit, and how often the edit broke what had been right."""
    found: dict[str, Any] = {}
    for kind in ("stays unsafe", "stays safe", "newly allowed", "newly blocked"):
        found[kind] = compared(judging, pairs(kind, count))
    return found


def compared(judging: Judging, given: Sequence[Pair]) -> dict[str, Any]:
    """Judge every clip under both policies."""
    before = [unsafe(j) for j in judging([case_of(p.clip, p.before) for p in given])]
    after = [
        unsafe(j) if p.after.active() else False
        for p, j in zip(given, judging([case_of(p.clip, p.after) for p in given]), strict=True)
    ]
    right_before = np.array([b == p.unsafe_before for b, p in zip(before, given, strict=True)])
    right_after = np.array([a == p.unsafe_after for a, p in zip(after, given, strict=True)])
    return {
        "clips": len(given),
        "right_before": share(right_before),
        "right_after": share(right_after),
        "right_both": share(right_before & right_after),
        "right_after_where_right_before": share(right_after[right_before]),
        "no_answer": sum(x is None for x in [*before, *after]),
    }


def share(values: Any) -> dict[str, Any] | None:
    """Return a share with its 95 % Wilson interval."""
    n = len(values)
    if n == 0:
        return None
    p, z = float(np.mean(values)), 1.96
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return {"value": round(p, 3), "low": round(float(middle - half), 3), "high": round(float(middle + half), 3), "n": n}


def exception_recall(judging: Judging, count: int) -> dict[str, Any]:
    """Policy Exception Recall (LlavaGuard): what the exception allows passes, and nothing beside it."""
    allowed = compared(judging, exceptions(count, exempt=True))
    others = compared(judging, exceptions(count, exempt=False))
    return {
        "policy_exception_recall": allowed["right_after"],
        "where_it_was_unsafe_before": allowed["right_after_where_right_before"],
        "others_stay_unsafe": others["right_after"],
        "no_answer": allowed["no_answer"] + others["no_answer"],
    }


def consistency(judging: Judging, count: int, *, worded: bool) -> dict[str, Any]:
    """How often the labels of all rules stay the same when their order, or their wording, is another."""
    items = [rendered_examples.item(FIRST_SEED + 900_000 + i, rules=3) for i in range(count)]
    policies = [rendered.policy(item.rules) for item in items]
    orders = [
        labels(judging([case_of(i.clip, p, seed=1000 * n + 17) for i, p in zip(items, policies, strict=True)]))
        for n in range(ORDERS)
    ]
    wordings = WORDINGS if worded else {}
    answers = {
        name: labels(judging([case_of(i.clip, _worded(p, say)) for i, p in zip(items, policies, strict=True)]))
        for name, say in wordings.items()
    }
    return {
        "rules_permuted": agreement(orders),
        "accuracy": accuracy(items, orders[0]),
        "rules_rephrased": agreement(list(answers.values())) if answers else None,
        "accuracy_by_wording": {name: accuracy(items, said) for name, said in answers.items()},
    }


def _worded(policy: Policy, say: Callable[[str], str]) -> Policy:
    return replace(policy, rules={c: replace(r, definition=say(c)) for c, r in policy.rules.items()})


def labels(judgements: Sequence[Judgement]) -> list[dict[str, str]]:
    return [{c.rule: c.violated for c in j.checks} if j.status == "ok" else {} for j in judgements]


def agreement(runs: Sequence[list[dict[str, str]]]) -> dict[str, Any] | None:
    """Share of clips whose labels are there and equal in all runs."""
    return share([bool(first) and all(first == other for other in rest) for first, *rest in zip(*runs, strict=True)])


def accuracy(items: Sequence[Any], said: Sequence[dict[str, str]]) -> dict[str, Any] | None:
    """Share of rules that are right; one without an answer is not."""
    return share(
        [
            found.get(rule) == ("yes" if rule in item.violated else "no")
            for item, found in zip(items, said, strict=True)
            for rule in item.rules
        ]
    )


def measured(judging: Judging, count: int, *, worded: bool) -> dict[str, Any]:
    return {
        "matrix": matrix(judging, count),
        "exceptions": exception_recall(judging, count),
        "consistency": consistency(judging, count, worded=worded),
        "always_safe": {"stays unsafe": 0.0, "stays safe": 1.0, "newly allowed": 1.0, "newly blocked": 0.0},
    }


def asking(url: str, model: str | None, settings: JudgeSettings) -> Judging:
    """Return a function that judges cases at `url`, at most 16 at once."""

    def judging(cases: Sequence[Case]) -> list[Judgement]:
        async def run() -> list[Judgement]:
            judge = from_url(url, model=model, settings=settings, concurrency=16, request_timeout_seconds=600)
            try:
                return await judge.judge(cases)
            finally:
                await judge.close()

        return asyncio.run(run())

    return judging


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="model name there; the only one it serves by default")
    parser.add_argument("--weights", type=Path, help="folder of a model to start vLLM with")
    parser.add_argument("--profile", default="small", help="settings of the judge: see slow_path/settings.py")
    parser.add_argument("--clips", type=int, default=100, help="clips of each case")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args(arguments)
    if (given.endpoint is None) == (given.weights is None):
        parser.error("give --endpoint URL of a running server, or --weights DIR to start one")
    settings = replace(profile(given.profile), mode="reason", samples=1, answer_attempts=1, deadline_seconds=600)
    if given.weights is not None:
        serving = ServerSettings(port=server.free_port(), images=8, max_model_len=2048, kv_cache_gib=1, threads=1)
        with server.running(str(given.weights), serving, log=given.out.with_suffix(".log")) as running:
            found = measured(asking(running.url, None, settings), given.clips, worded=settings.options.definitions)
    else:
        found = measured(
            asking(given.endpoint, given.model, settings), given.clips, worded=settings.options.definitions
        )
    report = {
        "machine": f"{len(os.sched_getaffinity(0))} cores {platform.machine()}",
        "model": given.model or (given.weights.name if given.weights else "the only one served"),
        "profile": given.profile,
        **found,
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
