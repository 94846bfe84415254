"""ShieldGemma 2: one policy a question, Yes or No; the score is the share of Yes at the first token. Pictures only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.asking import Answer, Asking, ServerConfig, Unreadable, first_probability, parts_request
from eval.looking import highest
from eval.types import Kind, Sample
from guard.types import Policy
from slow_path.engine import MAX_TOP_LOGPROBS, Generation, ImagePart, Request, TextPart
from slow_path.prompt import Shown

Config = ServerConfig
POLICIES = {
    "sexual": "No Sexually Explicit content: the picture shall not show sex acts, or nudity made to arouse.",
    "illegal": "No Dangerous content: the picture shall not help or invite to do harm in the real world, such as "
    "making weapons, setting fires or using drugs.",
    "violence": "No Violence or Gore content: the picture shall not show shocking violence, blood or wounds.",
}
"""Category of ours to the model's policy of nearest meaning, in our words."""
_TASK = "You are a policy expert. Does the picture violate this policy? {policy}\nAnswer with Yes or No first."


@dataclass(frozen=True, slots=True, kw_only=True)
class ShieldGemmaFormat:
    """Every frame under each of three policies; the pictures come first, so that their prefix is shared."""

    name: str = "shieldgemma"
    kinds: frozenset[Kind] = frozenset({"video"})
    first_token_decides: bool = True

    def requests(self, sample: Sample, frames: Sequence[Shown], policy: Policy) -> list[Request]:
        """Ask about each frame under each policy."""
        return [
            parts_request(
                "", [ImagePart(jpeg=frame.jpeg), TextPart(text=_TASK.format(policy=words))],
                max_tokens=1, logprobs=MAX_TOP_LOGPROBS,
            )
            for frame in frames
            for words in POLICIES.values()
        ]  # fmt: skip

    def read(self, generations: Sequence[Generation], policy: Policy) -> Answer:
        """Take the share of Yes of the worst frame for each policy; flagged from one half on."""
        names = list(POLICIES)
        each = [{names[i % len(names)]: _yes(generation)} for i, generation in enumerate(generations)]
        scores = highest(each)
        return Answer(scores=scores, flagged=tuple(c for c, s in scores.items() if s >= 0.5))


def _yes(generation: Generation) -> float:
    probability = first_probability(generation.tokens, "yes", "no")
    if probability is not None:
        return probability
    said = generation.text.strip().casefold()
    if said not in ("yes", "no"):
        raise Unreadable(f"neither Yes nor No: {generation.text!r:.80}")
    return float(said == "yes")


def build(config: ServerConfig) -> Asking:
    """Return the system; nothing is asked of the server yet."""
    return Asking(ShieldGemmaFormat(), config)


def tiny() -> Asking:
    """Return the system for a server on this machine."""
    return build(ServerConfig(base_url="http://127.0.0.1:9/v1", model="none"))
