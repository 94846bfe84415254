"""Embeddings and overrides on disk, and an override's way into the policy."""

import numpy as np
import pytest

from guard.errors import BackendError, InvalidPolicy
from guard.types import Exemplar
from policies import commands
from policies.commands import Target
from policies.exemplar_store import ExemplarStore, content_key
from policies.exemplars import Query, retrieve
from policies.personalize import By

HUG = Exemplar(rule="violence", violates=False, text="two players hug", rationale="A goal was scored; nobody is hurt.")
KICK = Exemplar(rule="violence", violates=True, text="a kick", sha256="a" * 64)


@pytest.fixture
def store(tmp_path):
    return ExemplarStore(tmp_path / "policies.sqlite3")


def vector(*values):
    return np.array(values, np.float32)


def test_embeddings_are_kept_by_content_and_encoder(store):
    store.save_embedding(KICK, "e1", vector(1, 2, 3))
    store.save_embedding(KICK, "e2", vector(4, 5))
    again = ExemplarStore(store.path)
    assert again.embedding(KICK, "e1").tolist() == [1, 2, 3]
    assert again.embedding(KICK, "e2").tolist() == [4, 5]
    assert again.embedding(KICK, "e3") is None
    assert again.embedding(HUG, "e1") is None
    moved = Exemplar(rule="other", violates=False, source="elsewhere.mp4", sha256="a" * 64)
    assert again.embedding(moved, "e1").tolist() == [1, 2, 3]  # the content counts, not the rule or the label
    store.save_embedding(KICK, "e1", vector(9, 9, 9))
    assert again.embedding(KICK, "e1").tolist() == [9, 9, 9]
    with pytest.raises(ValueError, match="finite"):
        store.save_embedding(KICK, "e1", vector(np.nan))


def test_text_and_source_of_one_name_are_two_contents():
    text, source = (Exemplar(rule="", violates=True, **{kind: "same"}) for kind in ("text", "source"))
    assert content_key(text) != content_key(source)


def test_an_override_is_confirmed_by_somebody_else_and_then_taught(store):
    target = Target(layer="acme", store=store.path)
    commands.block("parkour", target, By(author="ann"), definition="x")
    waiting = store.propose("acme", HUG, reviewer="rita", at="2026-01-01T00:00:00+00:00")
    assert store.overrides("acme") == (waiting,)
    with pytest.raises(InvalidPolicy, match="somebody else"):
        store.decide(waiting.number, confirm=True, by="rita")
    confirmed = store.decide(waiting.number, confirm=True, by="sam")
    assert (confirmed.status, confirmed.decided_by) == ("confirmed", "sam")
    assert store.overrides("acme") == ()
    outcome = commands.add_examples("violence", [confirmed.exemplar], target, By(author="sam"))
    rule = outcome.policy.rules["violence"]
    assert rule.exemplars == (HUG,)
    assert rule.exemplars[0].rationale.startswith("A goal")
    with pytest.raises(InvalidPolicy, match="confirmed by 'sam' already"):
        store.decide(waiting.number, confirm=False, by="tom")


def test_a_rejected_override_teaches_nothing(store):
    waiting = store.propose("acme", HUG, reviewer="rita", at="now")
    store.decide(waiting.number, confirm=False, by="sam")
    assert store.overrides("acme") == ()
    assert len(store.overrides("acme", "rejected")) == 1
    assert store.overrides("other", "rejected") == ()


def test_an_override_needs_a_reason_and_a_number_that_exists(store):
    with pytest.raises(InvalidPolicy, match="rationale"):
        store.propose("acme", KICK, reviewer="rita", at="now")
    with pytest.raises(InvalidPolicy, match="no override 7"):
        store.decide(7, confirm=True, by="sam")


def test_demonstrations_of_a_policy_come_with_what_the_encoder_has_seen(store):
    target = Target(store=store.path)
    commands.add_examples("violence", [HUG, KICK], target, By(author="ann"))
    policy = commands.show("layer:local", store.path).policy
    assert len(store.missing(policy, "e1")) == 2
    store.save_embedding(KICK, "e1", vector(1, 0))
    assert [e.text for e in store.missing(policy, "e1")] == [HUG.text]
    pool = store.demonstrations(policy, "e1")
    found = retrieve(Query(embedding=vector(1, 0.1), encoder="e1"), pool, strategy="semantic", count=1)
    assert found.demonstrations[0].exemplar.sha256 == KICK.sha256
    commands.unblock("violence", target, By(author="ann"))
    assert store.demonstrations(commands.show("layer:local", store.path).policy, "e1") == ()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "x").write_text("plain text, no database" * 50)
    with pytest.raises(BackendError, match="cannot be used"):
        ExemplarStore(tmp_path / "x").overrides("acme")
