"""Normalisation, features and the shipped text classifier: any Unicode, bounded work, the same alone or in a batch."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_path.text import classifier as text_classifier
from fast_path.text import screen
from fast_path.text.classifier import Config, TextClassifier, windows
from fast_path.text.features import Bags, FeatureConfig, bags, word_hashes
from fast_path.text.model import expand, idf_values
from fast_path.text.normalise import MAX_CHARACTERS, Plain, normalise
from fast_path.text.screen import Screener, as_input
from guard.errors import CalibrationMismatch, InvalidConfig
from guard.types import Judgement, Policy, Rule, RuleCheck, RuleState

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=120)

HASH_CHECK = 0xA1447510


@pytest.fixture(scope="module")
def shipped() -> TextClassifier:
    return text_classifier.build(Config())


@pytest.fixture(scope="module")
def screener() -> Screener:
    return screen.build(Config())


def policy(**rules: RuleState) -> Policy:
    named = {name.replace("__", "."): state for name, state in rules.items()}
    return Policy(name="t", version="1", hash="0" * 64, rules={c: Rule(category=c, state=s) for c, s in named.items()})


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("ＦＵＣＫ you", "fuck you"),
        ("fu\u200bck you", "fuck you"),
        ("f\u0336u\u0336c\u0336k\u0336 you", "fuck you"),
        ("\U0001d4ef\U0001d4fe\U0001d4ec\U0001d4f4 you", "fuck you"),
        ("f u c k  y o u", "fuck you"),
        ("f.u.c.k you!!!", "fuck you"),
        ("sh1t h@te $tupid", "shit hate stupid"),
        ("sh!t! idiot!!", "shit idiot"),
        ("fuuuuuck", "fuck"),
        ("hellllo", "hello"),
        ("с\u043eck", "cock"),  # the first two letters are Cyrillic
        ("dön't", "dont"),
        ("it does n't -lrb- work", "it doesnt work"),
        ("RT @someone: look http://x.example/y?z=1 now", "look now"),
        ("&lt;b&gt; Tom &amp; Jerry", "b tom jerry"),
        ("a b", "a b"),
        ("", ""),
        ("\ud800", ""),
        ("🙂👍🏽", ""),
    ],
)
def test_disguises_are_undone(disguised: str, plain: str) -> None:
    assert normalise(disguised).words == plain


def test_another_alphabet_is_not_read_as_latin() -> None:
    assert normalise("русский текст").words.isascii() is False
    assert normalise("日本語のテキスト").words.isascii() is False


def test_surface_marks_keep_what_the_words_lose() -> None:
    marks = set(normalise("WIN £1,000 now! Call 07123456789 or www.prize.example").surface)
    assert {"money", "num4", "num11", "link", "shout", "numbers2"} <= marks
    assert "asks" not in marks


@given(ANY_TEXT)
def test_any_text_normalises_to_single_spaced_words(text: str) -> None:
    found = normalise(text)
    assert found.words == " ".join(found.words.split())
    assert not any(c.isdigit() for c in found.words if c.isascii())
    assert found.unread == 0


@pytest.mark.parametrize(
    "piece",
    [
        "\u0300\u0327",
        " ",
        "a-",
        "@",
        "1,",
        "&#9",
        "&",
        "http://",
        "\ufdfa",
        "a b ",
        "<user",
        "-lr",
        "rt @",
        "x\u200b",
        "a.b",
        "*",
    ],
)
def test_huge_input_is_bounded_and_counted(piece: str) -> None:
    text = piece * MAX_CHARACTERS
    started = time.perf_counter()
    found = normalise(text)
    assert time.perf_counter() - started < 20.0  # about 0.3 s at worst; quadratic work would need minutes
    assert len(found.words) <= 2 * MAX_CHARACTERS
    assert found.unread >= len(text) - MAX_CHARACTERS


def test_a_reference_that_int_refuses_is_no_crash() -> None:
    assert normalise("&#" + "9" * 5000 + "; hello").words == "hello"


def slow_char_ngrams(words: str, lengths: tuple[int, ...]) -> set[str]:
    padded = f" {words} "
    found = set()
    for n in lengths:
        for at in range(len(padded) - n + 1):
            gram = padded[at : at + n]
            if " " not in gram[1:-1]:
                found.add(gram)
    return found


@given(st.lists(st.text("abcdé", min_size=1, max_size=6), max_size=6))
def test_character_buckets_are_those_of_the_slow_listing(words: list[str]) -> None:
    """With 2**22 buckets and at most a few dozen n-grams, a count differs only by a rare collision."""
    text = " ".join(words)
    config = FeatureConfig(buckets_log2=22, word_ngrams=(1,))
    found = bags([Plain(words=text, surface=(), disguised=0, symbols=0, unread=0)], config)
    want = slow_char_ngrams(text, config.char_ngrams) if text else set()
    assert abs(int(np.sum(found.kinds == 0)) - len(want)) <= 1
    assert int(np.sum(found.kinds == 1)) == len(set(words))


@given(st.lists(st.text("abcd ", max_size=30), min_size=1, max_size=5))
def test_features_do_not_depend_on_the_batch(texts: list[str]) -> None:
    plain = [normalise(text) for text in texts]
    together = bags(plain, FeatureConfig())
    for index, one in enumerate(plain):
        alone = bags([one], FeatureConfig())
        assert np.array_equal(together.indices[together.row(index)], alone.indices)


def test_word_hashes_are_stable_and_ordered() -> None:
    """Weights on disk depend on these numbers: a change of hash makes every checkpoint noise."""
    assert zlib.crc32(word_hashes("the quick brown fox").tobytes()) == HASH_CHECK
    forward, backward = word_hashes("ab ba"), word_hashes("ba ab")
    assert forward[0] == backward[1]
    assert forward[0] != forward[1]


def test_logits_equal_the_slow_sum(shipped: TextClassifier) -> None:
    model = shipped._model
    found = bags([normalise("you are a stupid idiot, call 07123456789")], model.features)
    weights, idf = expand(model.weights, model.scales).astype(np.float64), idf_values(model.idf).astype(np.float64)
    want = model.bias.astype(np.float64).copy()
    for kind in (0, 1):
        at = [
            int(b) + kind * model.features.buckets for b, k in zip(found.indices, found.kinds, strict=True) if k == kind
        ]
        length = sum(idf[a] ** 2 for a in at) ** 0.5
        for a in at:
            want += weights[a] * idf[a] / length
    assert np.allclose(model.logits(found)[0], want, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_batch_equals_single_for_any_text(shipped: TextClassifier, texts: list[str]) -> None:
    for text, scored in zip(texts, shipped.score(texts), strict=True):
        alone = shipped.score([text])[0]
        assert np.array_equal(alone.scores.probability, scored.scores.probability)
        assert alone.coverage == scored.coverage


@pytest.mark.parametrize(
    ("category", "bad", "good"),
    [
        ("toxicity", "you are a fucking idiot, shut up bitch", "thank you for the lovely evening"),
        ("spam", "WINNER!! Claim your free £1000 prize now, call 09061234567", "are we still on for lunch today"),
        ("negativity", "a dull, lifeless and painfully bad film", "a warm, funny and wonderfully acted film"),
        ("extremism.self_harm", "i want to kill myself and end my life, suicide", "the bus leaves at nine tomorrow"),
        ("extremism.hate", "all muslims are filthy animals and should be exterminated", "the museum opens on monday"),
    ],
)
def test_shipped_weights_rank_the_plain_cases(shipped: TextClassifier, category: str, bad: str, good: str) -> None:
    high, low = (result.scores.of(category) for result in shipped.score([bad, good]))
    assert high is not None
    assert low is not None
    assert high > 0.5 > low


def test_a_disguise_moves_the_score_little(shipped: TextClassifier) -> None:
    plain, *hidden = shipped.score(
        ["you fucking idiot", "y0u fucк1ng id1ot", "ｙｏｕ fu\u200bcking idiot", "you f.u.c.k.i.n.g idiot"]
    )
    for scored in hidden:
        assert abs(scored.probability[0] - plain.probability[0]) < 0.1


def test_one_bad_sentence_in_a_long_text_is_found(shipped: TextClassifier) -> None:
    calm = "the train to the coast leaves at nine and the weather will be fine all day " * 60
    scored = shipped.score([calm + "you are a fucking idiot you stupid bitch " + calm, calm])
    column = shipped.categories.index("toxicity")
    assert scored[0].scores.probability[column] > 0.5 > scored[1].scores.probability[column]
    assert scored[0].peak_window[column] > 0


@given(st.integers(0, 700), st.integers(10, 200), st.data())
def test_windows_cover_every_word(count: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, (size - 1) // 2))
    text = Plain(words=" ".join(f"w{i}" for i in range(count)), surface=("link",), disguised=0, symbols=0, unread=0)
    parts = windows(text, size, overlap)
    assert {w for part in parts for w in part.words.split()} == {f"w{i}" for i in range(count)}
    assert all(len(part.words.split()) <= size and part.surface == text.surface for part in parts)
    assert len(parts) <= 1 + count // (size - overlap)


def test_plain_texts_are_decided_and_the_rest_is_left_open(screener: Screener) -> None:
    bad, good, foreign, emoji, long = screener.screen(
        [
            "shut up you fucking stupid bitch",
            "thank you so much for the lovely evening, see you next week",
            "Добрый вечер, как у вас дела сегодня",
            "🔪🔪🔪",
            "good morning everyone " * MAX_CHARACTERS,
        ],
        policy(toxicity="block"),
    )
    assert bad.decision == "block"
    assert good.decision == "allow"
    assert foreign.decision == "review"  # not understood, so not cleared
    assert emoji.decision == "review"
    assert long.decision == "undecided"
    assert long.error is not None
    assert long.error.code == "too_long"


def test_a_rule_that_it_was_not_trained_on_is_never_cleared(screener: Screener) -> None:
    (verdict,) = screener.screen(["good morning everyone, see you later"], policy(sexual="block"))
    assert verdict.decision == "review"
    assert verdict.categories["sexual"].score is None


def test_known_words_of_harm_stand_in_a_text_that_was_not_understood(shipped: TextClassifier) -> None:
    (scored,) = shipped.score(["Добрый вечер как у вас дела fucking stupid bitch"])
    assert not scored.understood
    assert "toxicity" in scored.scores.categories
    assert "spam" not in scored.scores.categories


def test_a_slow_path_settles_what_screening_left_open(screener: Screener) -> None:
    text, rules = "Добрый вечер, как у вас дела сегодня", policy(toxicity="block")
    for violated, decision in (("no", "allow"), ("yes", "block"), ("unsure", "review")):
        check = RuleCheck(rule="toxicity", violated=violated, confidence=0.95)  # type: ignore[arg-type]
        answer = Judgement(status="ok", engine="scripted", checks=(check,), confidence=0.95)
        (verdict,) = screener.screen([text], rules, judgements=[answer])
        assert verdict.decision == decision


def test_the_shipped_calibration_belongs_to_the_shipped_weights(screener: Screener) -> None:
    (found,) = screener.evidence(["hello"], policy(toxicity="block", spam="flag"))
    assert found.scores[0].calibration is not None
    assert set(found.route.thresholds) == {"toxicity", "spam"}
    with pytest.raises(CalibrationMismatch):
        screener.calibrator.apply(replace(found.scores[0], fingerprint="0" * 16, calibration=None))


def test_bytes_are_refused(shipped: TextClassifier) -> None:
    with pytest.raises(TypeError, match=r"texts\[0\].*bytes"):
        shipped.score([b"x"])  # type: ignore[list-item]


def test_inputs_have_the_hash_of_their_bytes() -> None:
    assert as_input("abc").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert as_input("\ud800").sha256 != as_input("\ud801").sha256


@pytest.mark.parametrize(
    "settings_", [{"window_words": 5}, {"window_words": 20, "overlap_words": 10}, {"familiar_share": 1.5}]
)
def test_settings_out_of_range_are_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        text_classifier.build(Config(**settings_))  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidConfig, match="No usable text model"):
        text_classifier.build(Config(folder=tmp_path))


def test_bags_of_nothing_are_empty() -> None:
    empty = bags([], FeatureConfig())
    assert isinstance(empty, Bags)
    assert len(empty) == 0
