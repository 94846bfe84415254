"""What a scorer and a selector promise. Any scorer pairs with any selector."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection


@runtime_checkable
class Scorer(Protocol):
    """Says, for every training row and query group, whether keeping the row lowers the group's loss."""

    @property
    def name(self) -> str:
        """Registry key."""
        ...

    @property
    def signed(self) -> bool:
        """Whether zero is neutral: a positive score claims help, a negative one claims harm."""
        ...

    @property
    def uses_queries(self) -> bool:
        """Whether the scores depend on queries; otherwise there is one column, `self`."""
        ...

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return float32 [N, J]: one column per query group, in order of first appearance.

        The same input gives the same bytes. Raises `UsageError` where the rows lack what the scorer needs.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """Turns scores and a budget into rows to keep."""

    @property
    def name(self) -> str:
        """Registry key."""
        ...

    def select(
        self,
        scores: ScoreMatrix,
        budget: int,
        *,
        pool: FeatureView,
        queries: FeatureView | None = None,
        allowed: BoolArray | None = None,
        seed: int = 0,
    ) -> Selection:
        """Keep at most `budget` of the rows that `allowed` [N] permits; exactly that many unless the selector says
        why not.

        `scores` rows are the rows of `pool`. The same input and seed give the same selection.
        """
        ...
