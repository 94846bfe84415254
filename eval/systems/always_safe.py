"""Finds everything safe, without looking."""

from __future__ import annotations

from dataclasses import dataclass

from eval.constant import ConstantSystem


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Nothing to set."""


def build(config: Config) -> ConstantSystem:
    """Return the system."""
    return ConstantSystem(name="always_safe", flag=False)


def tiny() -> ConstantSystem:
    """Return the system: it is tiny as it is."""
    return build(Config())
