"""EK-FAC influence by the library kronfluence (arXiv 2308.03296), as a second opinion on `ekfac`.

The library wants a model, so the warm-up head is trained here once more, from embeddings and labels; with the
default settings it is the very head that a run trains. Its default damping of 1e-8 is for sets far larger than a
filter's queries: on 1,000 rows it costs a fifth of the LDS (docs/distill.md). Here the damping is a tenth of a
layer's mean eigenvalue unless a number is given.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from data_filter import ensemble, linear
from data_filter.types import FeatureView, Float64Array, LossKind, ScoreMatrix
from data_filter.warmup import WarmUpConfig, warm_up
from guard.plugins import missing_extra
from guard.types import require

BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    damping: float | None = None
    """Added to every eigenvalue, as it is; None takes a tenth of the layer's mean eigenvalue."""
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    """How the head is trained."""
    seed: int = 0
    """Of the labels that are drawn from the model."""

    def __post_init__(self) -> None:
        require(self.damping is None or self.damping > 0, "damping", "positive, or None", self.damping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kronfluence:
    """The library's pairwise scores, averaged over the queries of a group."""

    config: Config
    name: str = "kronfluence"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs embeddings and labels of both sides, and the package kronfluence."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        train.need_embeddings(self.name), asked.need_embeddings(self.name)
        if find_spec("kronfluence") is None:
            raise missing_extra("The scorer 'kronfluence'", "kronfluence")
        head = warm_up(train, self.config.warm_up)
        model = head.snapshots[-1].module()
        rows, wanted = (
            TensorDataset(torch.from_numpy(head.inputs(v)), torch.from_numpy(v.targets)) for v in (train, asked)
        )
        # the library draws labels from torch's global generator
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it still asks torch for what has a newer name
            torch.manual_seed(self.config.seed)
            pairs = pairwise(model, rows, wanted, train.loss, self.config.damping)
        return linear.matrix(train, names, pairs @ averaging.T.astype(np.float64), self.name, signed=True)


def pairwise(
    model: nn.Module, rows: TensorDataset, queries: TensorDataset, loss: LossKind, damping: float | None
) -> Float64Array:
    """Return the influence of every row on every query, float64 [N, Q], positive = lowers the query's loss.

    `rows` and `queries` hold inputs [N, D] and targets [N, C]. The linear layers of `model` are wrapped in place.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    task = _task(loss)
    with tempfile.TemporaryDirectory() as folder, _few_objects():
        analyzer = Analyzer(
            "filter", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True,
            log_level=logging.ERROR,
        )  # fmt: skip
        analyzer.fit_all_factors(
            "factors", rows, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy="ekfac")
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            queries,
            rows,
            per_device_query_batch_size=BATCH,
            per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=damping),
        )
        found: Float64Array = analyzer.load_pairwise_scores("scores")["all_modules"].double().numpy().T
    return found


@contextmanager
def _few_objects() -> Iterator[None]:
    """Hide every object that there is from the garbage collector: the library collects ten times per call, which with
    torch loaded takes 2.5 of 2.7 seconds on small sets."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _task(kind: LossKind) -> Any:
    from kronfluence.task import Task

    class Classify(Task):  # type: ignore[misc]  # the library is not typed where it is not installed
        def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            logits = model(batch[0])
            return ensemble.row_losses(logits, _drawn(logits.detach(), kind) if sample else batch[1], kind).sum()

        def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
            return ensemble.row_losses(model(batch[0]), batch[1], kind).sum()

    return Classify()


def _drawn(logits: Tensor, kind: LossKind) -> Tensor:
    """Return targets [B, C] drawn from what the model believes: they make the factors those of the Fisher matrix."""
    if kind == "sigmoid":
        return torch.bernoulli(logits.sigmoid())
    return functional.one_hot(torch.multinomial(logits.softmax(dim=-1), 1)[:, 0], logits.shape[-1]).float()


def build(config: Config) -> Kronfluence:
    """Build the scorer."""
    return Kronfluence(config=config)


def tiny() -> Kronfluence:
    """Build the scorer as tests use it."""
    return build(Config())
