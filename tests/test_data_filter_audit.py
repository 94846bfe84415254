"""Label audit, review queue, annotation picking."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_filter import annotate, audit, neighbours, review
from data_filter.annotate import AnnotateConfig
from data_filter.review import Decision, ReviewQueue
from data_filter.samples import Blobs, blobs
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig, describe, warm_up
from fast_path.dataset import Row
from guard.errors import UsageError


def _audited(loss: str = "sigmoid", flips: float = 0.1) -> tuple[Blobs, FeatureView, list[audit.Finding]]:
    data = blobs(rows=300, queries=1, flips=flips, spread=1.5, loss=loss)  # type: ignore[arg-type]
    view = describe(warm_up(data.train, WarmUpConfig()), data.train)
    return data, view, audit.audit(view)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_flipped_labels_are_found_and_put_right(loss: str) -> None:
    data, view, findings = _audited(loss)
    wrong = {view.ids[i] for i in data.flipped}
    first = [f.id for f in findings[: len(wrong)]]
    assert len(wrong & set(first)) / len(wrong) >= 0.9
    truth = dict(zip(view.ids, (view.stratum(row) for row in data.clean_targets), strict=True))
    flagged = [f for f in findings if f.flagged]
    assert len({f.id for f in flagged} & wrong) / len(flagged) >= 0.85, "precision"
    assert len({f.id for f in flagged} & wrong) / len(wrong) >= 0.9, "recall"
    right = [f.suggested == truth[f.id] for f in flagged if f.id in wrong]
    assert np.mean(right) >= 0.9
    assert all(e.label != f.label for f in flagged for e in f.evidence)
    assert all(f.evidence for f in flagged)
    assert audit.trusted(view, findings).sum() == 300 - len(flagged)


def test_clean_labels_are_left_alone() -> None:
    _, _, findings = _audited(flips=0.0)
    assert sum(f.flagged for f in findings) <= 3


def test_a_rare_label_is_doubted_but_never_wiped_out() -> None:
    """Three rows of a third class inside the cloud of another: every neighbour votes them down."""
    data = blobs(rows=300, queries=1, flips=0.0, classes=2, loss="softmax")
    rng = np.random.default_rng(0)
    odd = np.flatnonzero(data.train.targets[:, 0])[:3]
    targets = np.concatenate([data.train.targets, np.zeros((300, 1), np.float32)], axis=1)
    targets[odd] = [0, 0, 1]
    points = data.train.embeddings + 0.01 * rng.normal(size=data.train.embeddings.shape).astype(np.float32)
    train = replace(data.train, targets=targets, categories=("a", "b", "rare"), embeddings=points)
    view = describe(warm_up(train, WarmUpConfig()), train)
    rare = [f for f in audit.audit(view) if f.label == "rare"]
    assert all(f.doubted and not f.flagged for f in rare)
    loose = [f for f in audit.audit(view, audit.AuditConfig(most_of_label=0.7)) if f.label == "rare"]
    assert [f.flagged for f in loose] == [True, True, False], "two of three, the most suspicious"


def test_every_row_is_in_the_audit_once_in_order() -> None:
    _, view, findings = _audited()
    assert sorted(f.id for f in findings) == sorted(view.ids)
    assert [f.rank for f in findings] == list(range(1, 301))
    assert all(a.suspicion >= b.suspicion for a, b in itertools.pairwise(findings))


def test_decisions_are_kept_undone_and_applied(tmp_path: Path) -> None:
    _, _, findings = _audited()
    queue = ReviewQueue(tmp_path)
    queue.write(findings)
    ids = [f["id"] for f in queue.findings()]
    assert ids == [f.id for f in findings if f.doubted]
    queue.decide(Decision(id=ids[0], action="drop", by="ann"))
    queue.decide(Decision(id=ids[1], action="relabel", labels=("illegal.fire",)))
    queue.decide(Decision(id=ids[2], action="keep"))
    queue.write(findings)  # a second audit must not lose what a person decided
    assert [f["id"] for f in queue.pending()] == ids[3:]
    names = [*ids[:3], "other"]
    rows = [Row(path=Path(i), labels=("violence.fighting",), split="train", group=i, sha256=i) for i in names]
    kept, dropped = review.apply(rows, names, queue.decisions())
    assert dropped == {ids[0]: "dropped by a person: ann"}
    assert kept[1:] == tuple(rows[2:])
    assert (kept[0].labels, kept[0].extra) == (("illegal.fire",), {"labels_before_audit": ["violence.fighting"]})
    queue.decide(Decision(id=ids[0], action="undo"))
    assert ids[0] not in queue.decisions()
    assert review.apply(rows, names, queue.decisions())[0][0] == rows[0]
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["drop", "relabel", "keep", "undo"]


def test_wrong_decisions_are_refused(tmp_path: Path) -> None:
    _, _, findings = _audited()
    queue = ReviewQueue(tmp_path)
    with pytest.raises(UsageError, match=r"no queue\.jsonl"):
        queue.findings()
    queue.write(findings)
    name = queue.findings()[0]["id"]
    with pytest.raises(UsageError, match="not in the queue"):
        queue.decide(Decision(id="stranger", action="drop"))
    with pytest.raises(UsageError, match="keep, relabel, drop, undo"):
        queue.decide(Decision(id=name, action="delete"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="relabel only"):
        queue.decide(Decision(id=name, action="keep", labels=("a",)))


def test_neighbours_equal_brute_force_and_leave_groups_out() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 5)).astype(np.float32)
    groups = tuple(f"g{i // 3}" for i in range(60))
    found = neighbours.nearest(points, 4, groups=groups)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    near = unit @ unit.T
    for i in range(60):
        near[i, i // 3 * 3 : i // 3 * 3 + 3] = -9
        np.testing.assert_allclose(found.cosine[i], np.sort(near[i])[::-1][:4], atol=1e-6)
        assert all(groups[j] != groups[i] for j in found.indices[i])


def test_rows_without_admissible_neighbours_keep_their_label() -> None:
    points = np.eye(3, dtype=np.float32)
    found = neighbours.nearest(points, 2, groups=("a", "a", "a"))
    assert (found.indices == -1).all()
    np.testing.assert_array_equal(neighbours.vote(found, np.eye(3, dtype=np.float32)), np.eye(3))


def test_a_bounded_reference_set_still_finds_near_rows() -> None:
    data = blobs(rows=500, queries=1, spread=0.5)
    points = data.train.embeddings
    assert points is not None
    found = neighbours.nearest(points, 5, limit=100)
    vote = neighbours.vote(found, data.train.targets)
    assert (vote.argmax(axis=1) == data.train.targets.argmax(axis=1)).mean() > 0.98


def _simulated_reach(near: neighbours.Neighbours, seeds: list[int], rounds: int, seed: int) -> float:
    """Independent cascade, run forward: the slow way that reverse sets stand for."""
    rng, probability, total = np.random.default_rng(seed), annotate.edges(near), 0
    for _ in range(rounds):
        seen, queue = set(seeds), list(seeds)
        while queue:
            i = queue.pop()
            for j, p in zip(near.indices[i], probability[i], strict=True):
                if j >= 0 and int(j) not in seen and rng.random() < p:
                    seen.add(int(j))
                    queue.append(int(j))
        total += len(seen)
    return total / rounds / len(near.indices)


def test_reverse_sets_estimate_the_forward_spread() -> None:
    points = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    picks = annotate.pick(points, 5, AnnotateConfig(k=5, sets=8000))
    near = neighbours.nearest(points, 5)
    assert picks.reach[-1] == pytest.approx(_simulated_reach(near, picks.indices.tolist(), 1500, 1), abs=0.03)
    assert (np.diff(picks.reach) >= 0).all()


def test_ideal_reaches_more_than_random_picks() -> None:
    points = np.random.default_rng(1).normal(size=(150, 6)).astype(np.float32)
    near = neighbours.nearest(points, 6)
    picks = annotate.pick(points, 6, AnnotateConfig(k=6, sets=5000))
    rng = np.random.default_rng(2)
    draws = [_simulated_reach(near, rng.choice(150, 6, replace=False).tolist(), 100, i) for i in range(10)]
    assert _simulated_reach(near, picks.indices.tolist(), 300, 3) > np.mean(draws) + 2 * np.std(draws) / np.sqrt(10)


def test_vote_k_takes_hubs_and_then_moves_on() -> None:
    """Three tight clusters of 20: the first three picks must lie in three different ones."""
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(3), 20, axis=0) + 0.05 * rng.normal(size=(60, 3))
    picks = annotate.pick(points.astype(np.float32), 3, AnnotateConfig(method="vote_k", k=15))
    assert sorted(i // 20 for i in picks.indices) == [0, 1, 2]


def test_budgets_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[1, 4\]; got 5"):
        annotate.pick(np.eye(4, dtype=np.float32), 5)
