"""Representation similarity (RDS): cosine between embeddings. Forward passes only, and it ignores labels: the cheap
control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    reduce: Literal["mean", "max"] = "max"
    """How a group's queries are joined. RDS+ takes the nearest query of a task and never compares tasks: pair it
    with `round_robin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """cos(embedding of z, embedding of q), joined over the group."""

    config: Config
    name: str = "representation"
    signed: bool = False
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J] in [-1, 1]; needs embeddings of both sides."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        rows, targets = train.need_embeddings(self.name), linear.unit(asked.need_embeddings(self.name))
        linear.check_same_space(rows, targets, self.name)
        if self.config.reduce == "mean":
            values = linear.project(rows, averaging.astype(np.float64) @ targets, normalise=True)
            return linear.matrix(train, names, values, self.name, signed=False)
        values = np.empty((len(train), len(names)))
        for at, block in linear.blocks(rows):
            near = linear.unit(block) @ targets.T
            values[at] = np.stack([near[:, member > 0].max(axis=1) for member in averaging], axis=1)
        return linear.matrix(train, names, values, self.name, signed=False)


def build(config: Config) -> Representation:
    """Build the scorer."""
    return Representation(config=config)


def tiny() -> Representation:
    """Build the scorer as tests use it."""
    return build(Config())
