"""Few-shot text scores: better with examples, the same alone or in a batch, and honest where nothing is alike."""

from __future__ import annotations

import numpy as np
import pytest

from fast_path.text import model as stored
from fast_path.text.fewshot import ARMS, Arm, embed, scores
from fast_path.text.model import LinearModel
from guard.errors import InvalidConfig

ACCIDENT = ["two cars crashed on the motorway", "a lorry hit a bus at the crossing", "car crash caught on camera"]
CALM = ["a cat sleeps on the sofa", "how to bake bread at home", "a walk along the beach"]


@pytest.fixture(scope="module")
def model() -> LinearModel:
    return stored.load()[0]


@pytest.mark.parametrize("arm", ARMS)
def test_what_resembles_the_examples_scores_higher(model: LinearModel, arm: Arm) -> None:
    found = scores(
        ["the car crashed into a bus", "bread and a cat at home"], ACCIDENT + CALM, [1] * 3 + [0] * 3, model, arm=arm
    )
    assert found[0] > 0.5 > found[1]


@pytest.mark.parametrize("arm", ARMS)
def test_batch_equals_single_and_swapping_classes_mirrors(model: LinearModel, arm: Arm) -> None:
    queries = ["a bus hit a cat", "", "the beach crossing", "😀"]
    together = scores(queries, ACCIDENT + CALM, [1] * 3 + [0] * 3, model, arm=arm)
    for query, value in zip(queries, together, strict=True):
        alone = scores([query], ACCIDENT + CALM, [1] * 3 + [0] * 3, model, arm=arm)
        assert alone[0] == pytest.approx(value, abs=1e-6)
    mirrored = scores(queries, ACCIDENT + CALM, [0] * 3 + [1] * 3, model, arm=arm)
    assert np.allclose(together + mirrored, 1.0, atol=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_a_text_like_nothing_is_near_a_half(model: LinearModel, arm: Arm) -> None:
    assert scores([""], ACCIDENT[:2] + CALM[:2], [1, 1, 0, 0], model, arm=arm)[0] == pytest.approx(0.5, abs=0.15)


def test_cosine_equals_the_dense_product(model: LinearModel) -> None:
    first, second = embed([*ACCIDENT, ""], model), embed(CALM, model)

    def dense(vectors: object) -> np.ndarray:
        out = np.zeros((len(vectors), vectors.width))  # type: ignore[arg-type, attr-defined]
        for i in range(len(out)):
            own = slice(vectors.starts[i], vectors.starts[i + 1])  # type: ignore[attr-defined]
            out[i, vectors.at[own]] = vectors.value[own]  # type: ignore[attr-defined]
        return out

    assert np.allclose(first.cosine(second), dense(first) @ dense(second).T, atol=1e-5)
    assert np.allclose(np.diag(first.cosine(first))[:3], 1.0, atol=1e-5)
    taken = first.take([2, 0])
    assert np.array_equal(taken.cosine(second), first.cosine(second)[[2, 0]])


def test_both_classes_are_needed(model: LinearModel) -> None:
    with pytest.raises(InvalidConfig, match="both classes"):
        scores(["x"], ACCIDENT, [1, 1, 1], model)
    with pytest.raises(InvalidConfig, match="arm must be one of"):
        scores(["x"], ACCIDENT, [1, 0, 1], model, arm="tree")  # type: ignore[arg-type]
