"""What a lock means: an upper layer may make a locked rule stricter, and nothing else.

Upon a locked rule, and upon everything below its category, an upper layer may raise the state and add examples that
violate. It may not lower the state, unlock, move thresholds, or touch a rule's words: a definition that says less, an
allowed line, or a "blocked" line that explains the rule away all loosen it. Who wants more covered extends the rule,
which makes a rule of its own beside it. A rule that names no state has that of the rule it extends, so a locked one is
not loosened by way of another rule either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from guard.errors import RuleLocked
from policies.patch import STRICTNESS, Patch, above, claimant, given, state_of

_ADDABLE = {"state", "exemplars", "locked"}


def is_locked(category: str, patches: Mapping[str, Patch]) -> str | None:
    """Return the category whose lock holds for `category`, or None: the nearest rule above that says anything."""
    for node in above(category):
        if node in patches and patches[node].locked is not None:
            return node if patches[node].locked else None
    return None


def check_lock(patch: Patch, below: Mapping[str, Patch], layer: str, locker: Callable[[str], str]) -> None:
    """Raise `RuleLocked` where `patch` loosens a rule that is locked in `below`.

    Args:
        patch: what the upper layer says.
        below: the merged patches of all layers under it.
        layer: name of the upper layer, for the message.
        locker: gives the name of the layer that locked a category.
    """
    lock = is_locked(patch.category, below)
    held = claimant(patch.category, below)
    reason = _loosens(patch, below[held]) if lock is not None and held is not None else None
    if lock is not None and reason is not None:
        raise _locked(patch.category, reason, lock, layer, locker)


def check_follows(
    patches: Mapping[str, Patch], below: Mapping[str, Patch], layer: str, locker: Callable[[str], str]
) -> None:
    """Raise `RuleLocked` where a locked rule that follows another one has become milder by way of that other one.

    Args:
        patches: the merged patches with those of the upper layer.
        below: the merged patches of all layers under it.
        layer: name of the upper layer, for the message.
        locker: gives the name of the layer that locked a category.
    """
    for category, patch in patches.items():
        lock, held = is_locked(category, below), claimant(category, below)
        if patch.state is not None or not patch.extends or lock is None or held is None:
            continue
        state = state_of(patch, patches)
        if STRICTNESS[state] < STRICTNESS[state_of(below[held], below)]:
            reason = f"sets {category!r}, which follows {patch.extends!r}, to {state!r}"
            raise _locked(category, reason, lock, layer, locker)


def _locked(category: str, reason: str, lock: str, layer: str, locker: Callable[[str], str]) -> RuleLocked:
    under = "" if lock == category else f" (which covers {category!r})"
    return RuleLocked(
        f"Layer {layer!r} {reason}, but the rule {lock!r}{under} is locked by {locker(lock)!r}.",
        hint=f"Ask whoever owns {locker(lock)!r}, or be stricter: raise the state, or add examples that violate.",
    )


def _loosens(patch: Patch, held: Patch) -> str | None:
    """Return what `patch` does that a lock forbids, in words, or None."""
    says = given(patch)
    if patch.state is not None and STRICTNESS[patch.state] < STRICTNESS[held.state or "block"]:
        return f"sets {patch.category!r} to {patch.state!r}"
    if patch.locked is False:
        return f"unlocks {patch.category!r}"
    if any(not exemplar.violates for exemplar in patch.exemplars):
        return f"adds an example to {patch.category!r} that does not violate"
    own = patch.category == held.category  # a new rule below a locked one needs a definition; the locked one stays
    words = [name for name in says if name not in _ADDABLE and (own or name in {"thresholds", "allowed"})]
    return f"changes {', '.join(words)} of {patch.category!r}" if words else None
