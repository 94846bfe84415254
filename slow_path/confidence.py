"""How sure the model was, from the log-probabilities of the tokens that decide; never from its own words.

Sing-Guard (arXiv 2606.22873) and ShieldGemma normalise the probability of the label token over the labels that were
possible; the same is done here at each decision inside a longer answer. A label that the server did not list counts
as likely as it can have been, so a short list of alternatives makes the model look less sure, not more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from slow_path.engine import Token

LABELS = ("yes", "no", "unsure")
LEAST_LABEL_MASS = 0.05
"""Below this share for all labels together the model was about to say something else, and their ratio means nothing."""

_DECISION = re.compile(r'"violated"\s*:\s*"(yes|no|unsure)"')
# Inside a JSON string the quote after `violated` would be escaped, so text written by the model cannot match.


def label_confidences(tokens: Sequence[Token] | None, labels: Sequence[str]) -> list[float | None]:
    """Return, for each `violated` label of an answer in order, the probability in [0, 1] of the label that was given.

    Args:
        tokens: the generated tokens, or None where the server gave no log-probabilities.
        labels: the labels as parsed, in the order of the text.

    Returns:
        One value per label; None where it cannot be known.
    """
    if not tokens:
        return [None] * len(labels)
    text = "".join(token.text for token in tokens)
    found = list(_DECISION.finditer(text))
    if [match.group(1) for match in found] != list(labels):
        return [None] * len(labels)
    return [_at(tokens, match.start(1), match.group(1)) for match in found]


def _at(tokens: Sequence[Token], position: int, label: str) -> float | None:
    """Return the probability of `label`, whose first sign is at `position` of the joined text."""
    start = 0
    for token in tokens:
        end = start + len(token.text)
        if start <= position < end:
            return normalised(_by_label(token, position - start), label)
        start = end
    return None


def _by_label(token: Token, skip: int) -> tuple[dict[str, float], float]:
    """Sum the probabilities of the alternatives by label; `skip` signs of the token come before the label."""
    lead = token.text[:skip]
    alternatives = dict(token.top) or {token.text: token.logprob}
    mass: dict[str, float] = {}
    for text, logprob in alternatives.items():
        rest = text[skip:] if text.startswith(lead) else ""
        named = [label for label in LABELS if rest and (f'{label}"'.startswith(rest) or rest.startswith(f'{label}"'))]
        if len(named) == 1:
            mass[named[0]] = mass.get(named[0], 0.0) + math.exp(logprob)
    return mass, unseen_bound(alternatives)


def unseen_bound(alternatives: Mapping[str, float]) -> float:
    """Return the largest probability that a token outside `alternatives` (text to log-probability) can have had."""
    probabilities = [math.exp(logprob) for logprob in alternatives.values()]
    return max(0.0, min(min(probabilities), 1.0 - sum(probabilities)))


def normalised(mass_and_bound: tuple[Mapping[str, float], float], label: str) -> float | None:
    """Return the share of `label` among all labels, those not listed counted at the bound."""
    mass, bound = mass_and_bound
    if label not in mass:
        return None
    total = sum(mass.get(name, bound) for name in LABELS)
    return mass[label] / total if total > 0 else None


def yes_probability(token: Token | None) -> float | None:
    """Return the probability in [0, 1] of "yes" against "no" at one token, or None where the model said neither.

    Case and leading space are variants of one label: ` Yes`, `yes` and `YES` are summed.
    """
    if token is None:
        return None
    mass = {"yes": 0.0, "no": 0.0}
    for text, logprob in (dict(token.top) or {token.text: token.logprob}).items():
        word = text.strip().casefold()
        if word in mass:
            mass[word] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    if total < LEAST_LABEL_MASS:
        return None
    bound = unseen_bound(dict(token.top)) if token.top else 0.0
    yes, no = (value or min(bound, total) for value in mass.values())
    return yes / (yes + no)
