"""Load the detectors that the settings name, with a trained checkpoint in the place of the embedded classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fast_path import checkpoint
from guard import plugins
from guard.errors import InvalidConfig
from guard.interfaces import Detector

CLASSIFIERS = ("tiny", "probe")
"""Detectors that run a checkpoint of `guard train fast`; the encoder that it names says which of them does."""


def classifier_of(folder: Path) -> str:
    """Return the name of the detector that runs the checkpoint in `folder`.

    Raises:
        InvalidConfig: there is no usable checkpoint.
    """
    return "tiny" if checkpoint.load(folder).config["encoder"]["name"] == "tiny" else "probe"


def load_detectors(names: Sequence[str], folder: Path | None = None) -> tuple[Detector, ...]:
    """Build the detectors `names`; with `folder`, the checkpoint in it takes the place of the classifier among them.

    Raises:
        InvalidConfig: the checkpoint is absent or damaged, or no classifier is among `names` that it could replace.
        UnknownPart: there is no detector of a name.
    """
    if folder is None:
        return tuple(plugins.load("detector", name) for name in names)
    own = classifier_of(folder)
    if not set(CLASSIFIERS) & set(names):
        raise InvalidConfig(
            f"fast_checkpoint is {str(folder)!r}, and `detectors` names nothing that could run it: "
            f"{', '.join(names) or 'none'}.",
            hint=f"Add {own!r} to `detectors`, or leave fast_checkpoint out.",
        )
    replaced = tuple(dict.fromkeys(own if name in CLASSIFIERS else name for name in names))
    return tuple(plugins.load("detector", name, **({"weights": folder} if name == own else {})) for name in replaced)
