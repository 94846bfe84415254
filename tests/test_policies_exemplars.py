"""Retrieval of demonstrations and choice of what to annotate."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidConfig
from guard.types import Exemplar
from policies import annotate
from policies.exemplars import (
    Demonstration,
    Query,
    balanced_order,
    bm25,
    content_key,
    count_tokens,
    retrieve,
    similarities,
)


def demo(text, *, violates=True, rule="violence", vector=None, encoder="e", rationale=""):
    embedding = None if vector is None else np.array(vector, np.float32)
    exemplar = Exemplar(rule=rule, violates=violates, text=text, rationale=rationale)
    return Demonstration(exemplar=exemplar, embedding=embedding, encoder=encoder if vector is not None else "")


def texts(found):
    return [d.exemplar.text for d in found.demonstrations]


POOL = [
    demo("a punch", vector=[1, 0, 0]),
    demo("a kick", vector=[0.9, 0.1, 0]),
    demo("a shove", vector=[0.8, 0.3, 0]),
    demo("a hug", violates=False, vector=[0.5, 0.8, 0]),
    demo("a dance", violates=False, vector=[0, 1, 0]),
    demo("a flame", rule="illegal.fire", vector=[0, 0, 1]),
]
QUERY = Query(embedding=np.array([1, 0, 0], np.float32), encoder="e", text="somebody kicks")


def test_semantic_takes_the_nearest_with_the_best_last():
    found = retrieve(QUERY, POOL, strategy="semantic", count=3)
    assert texts(found) == ["a shove", "a kick", "a punch"]
    assert found.basis == "embedding"


def test_balanced_gives_every_label_and_rule_a_turn():
    found = retrieve(QUERY, POOL, count=3)
    assert set(texts(found)) == {"a punch", "a hug", "a flame"}
    found = retrieve(QUERY, POOL, count=5)
    assert Counter((d.exemplar.rule, d.exemplar.violates) for d in found.demonstrations) == {
        ("violence", True): 2,
        ("violence", False): 2,
        ("illegal.fire", True): 1,
    }
    assert [d.exemplar.text for d in balanced_order(POOL[:4])] == ["a punch", "a hug", "a kick", "a shove"]


def test_bm25_finds_by_words_and_rationale():
    pool = [demo("x", rationale="he kicks the door"), demo("y", rationale="a calm walk"), demo("kicks kicks kicks")]
    found = retrieve(Query(text="kicks the door"), pool, strategy="bm25", count=1)
    assert texts(found) == ["x"]
    assert found.basis == "words"


def test_without_embeddings_words_serve_and_without_words_chance():
    by_words = retrieve(Query(text="a kick"), POOL, count=1)
    assert (texts(by_words), by_words.basis) == (["a kick"], "words")
    assert retrieve(Query(text="zzz"), POOL).basis == "chance"
    assert retrieve(Query(embedding=QUERY.embedding, encoder="another"), POOL).basis == "chance"


def test_embeddings_of_another_encoder_are_not_compared():
    pool = [demo("same", vector=[0, 1]), demo("other", vector=[1, 0], encoder="f"), demo("none")]
    found = similarities(Query(embedding=np.array([1, 0], np.float32), encoder="e"), pool)
    assert found.tolist() == [0, -2, -2]


def test_random_depends_on_the_seed_alone():
    one = texts(retrieve(QUERY, POOL, strategy="random", count=3, seed=1))
    assert one == texts(retrieve(QUERY, list(reversed(POOL)), strategy="random", count=3, seed=1))
    assert any(texts(retrieve(QUERY, POOL, strategy="random", count=3, seed=s)) != one for s in range(2, 8))


def test_the_budget_is_kept_and_a_shorter_one_may_still_fit():
    pool = [demo("long " * 100, vector=[1, 0, 0]), demo("short", vector=[0.9, 0, 0.1])]
    found = retrieve(QUERY, pool, strategy="semantic", budget_tokens=10)
    assert texts(found) == ["short"]
    assert (found.tokens, found.left_out) == (count_tokens("short"), 1)
    assert texts(retrieve(QUERY, POOL, budget_tokens=0)) == []


@given(
    st.lists(st.tuples(st.text("ab ", max_size=30), st.booleans()), max_size=12),
    st.integers(0, 40),
    st.integers(0, 6),
    st.sampled_from(["random", "semantic", "balanced", "bm25"]),
    st.integers(0, 99),
)
def test_no_arm_breaks_the_budget_or_depends_on_the_order(items, budget, count, strategy, seed):
    rng = np.random.default_rng(seed)
    pool = [demo(f"{text}{i}", violates=v, vector=rng.normal(size=3)) for i, (text, v) in enumerate(items)]
    found = retrieve(QUERY, pool, strategy=strategy, count=count, budget_tokens=budget, seed=seed)
    assert len(found.demonstrations) <= count
    assert sum(count_tokens(d.words) for d in found.demonstrations) == found.tokens <= budget
    assert len(set(texts(found))) == len(texts(found))
    shuffled = random.Random(seed).sample(pool, len(pool))
    again = retrieve(QUERY, shuffled, strategy=strategy, count=count, budget_tokens=budget, seed=seed)
    assert texts(again) == texts(found)


def slow_bm25(query, documents, k1=1.2, b=0.75):
    split = [d.split() for d in documents]
    mean = sum(map(len, split)) / len(split)
    result = []
    for words in split:
        score = 0.0
        for word in set(query.split()):
            having = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
            f = words.count(word)
            score += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(words) / mean))
        result.append(score)
    return result


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=6))
def test_bm25_agrees_with_the_formula_word_by_word(documents):
    assert np.allclose(bm25("a b", documents), slow_bm25("a b", documents), atol=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(InvalidConfig, match="random, semantic, balanced, bm25; got 'best'"):
        retrieve(QUERY, POOL, strategy="best")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig):
        retrieve(QUERY, POOL, count=-1)
    with pytest.raises(ValueError, match="embedding"):
        Demonstration(exemplar=POOL[0].exemplar, embedding=np.zeros((2, 2), np.float32))


def islands():
    """Three groups of 20, 15 and 5 clips, and two strays."""
    rng = np.random.default_rng(0)
    centres = np.eye(6, dtype=np.float32)[:3] * 10
    groups = [centres[i] + rng.normal(size=(n, 6)) * 0.3 for i, n in enumerate((20, 15, 5))]
    strays = np.array([[0, 0, 0, 10, 0, 0], [0, 0, 0, 0, 0, 10]], np.float32)
    return np.concatenate([*groups, strays]).astype(np.float32)


@pytest.mark.parametrize("choose", [annotate.vote_k, annotate.ideal])
def test_what_to_annotate_is_spread_over_the_groups_and_leaves_strays_out(choose):
    chosen = choose(islands(), 3, neighbours=4)
    group = [0] * 20 + [1] * 15 + [2] * 5 + [3, 4]
    assert sorted(group[i] for i in chosen) in ([0, 1, 2], [0, 0, 1])
    assert len(set(chosen)) == 3
    assert chosen == choose(islands(), 3, neighbours=4)


@pytest.mark.parametrize("choose", [annotate.vote_k, annotate.ideal])
def test_choosing_all_or_none_works_and_more_is_refused(choose):
    vectors = islands()[:6]
    assert sorted(choose(vectors, 6)) == list(range(6))
    assert choose(vectors, 0) == ()
    assert choose(vectors[:1], 1) == (0,)
    with pytest.raises(InvalidConfig, match="6 items; got 7"):
        choose(vectors, 7)
    with pytest.raises(InvalidConfig, match="finite"):
        choose(np.full((3, 2), np.nan, np.float32), 1)


def test_ideal_reaches_more_than_chance():
    vectors = islands()
    graph = annotate.nearest(vectors, 4)
    rng = np.random.default_rng(3)

    def reached(chosen):
        everything = annotate._reach(graph, np.ones(graph.shape, bool))
        return int(everything[list(chosen)].any(axis=0).sum())

    best = reached(annotate.ideal(vectors, 3, neighbours=4))
    assert best >= np.mean([reached(rng.choice(len(vectors), 3, replace=False)) for _ in range(50)])


def test_influence_ranks_the_nearest_anew_and_lets_nothing_from_afar_in():
    far = [demo(f"far {i}", vector=[-1, 0.1 * i, 0]) for i in range(8)]
    helps = {content_key(d.exemplar): value for d, value in zip(POOL[:3], (0.1, 0.9, 0.5), strict=True)}
    helps |= {content_key(d.exemplar): 100.0 for d in far}
    pool = [*POOL[:5], *far]
    assert texts(retrieve(QUERY, pool, strategy="semantic", count=1, influence=helps)) == ["a kick"]
    assert texts(retrieve(QUERY, pool, strategy="semantic", count=1)) == ["a punch"]
    shown = retrieve(QUERY, POOL, count=2, influence=helps)
    assert {d.exemplar.violates for d in shown.demonstrations} <= {True, False}
    assert texts(retrieve(QUERY, POOL[:3], strategy="semantic", count=3, influence=helps))[::-1] == [
        "a kick", "a shove", "a punch",
    ]  # fmt: skip
