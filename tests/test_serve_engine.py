"""The bridge to the guard: shared models, bounded lines, texts and clips of many requests together."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import media
import numpy as np
import pytest

from fast_path.detectors import tiny
from guard.config import Settings
from guard.errors import Capacity, DetectorFailed
from guard.types import Float32Array, Policy, PolicyRef, UInt8Array, Verdict
from policies.load import load_policy
from serve.engine import Engine
from serve.micro_batches import Coalesced, coalesce, on_accelerator
from serve.settings import ServeSettings
from serve.text_batches import TextBatcher

POLICY = load_policy("spam")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(Settings(home=tmp_path_factory.mktemp("engine"), workers=1), ServeSettings(max_pending_media=2))
    yield made
    made.close()


def test_policies_share_models_and_decoders(engine: Engine) -> None:
    with engine.using(None) as own, engine.using(load_policy("accidents")) as other, engine.using(None) as again:
        assert own is again
        assert own is not other
        assert own.pipeline.stages.decoder is other.pipeline.stages.decoder
        mine = {d.name: d for d in own.pipeline.stages.detectors}
        theirs = {d.name: d for d in other.pipeline.stages.detectors}
        assert mine["tiny"] is theirs["tiny"]


def test_policies_that_were_not_asked_for_in_long_make_room_while_those_in_use_stay(engine: Engine) -> None:
    def numbered(number: int) -> Policy:
        base = load_policy("accidents")
        return Policy(name=base.name, version=str(number), hash=base.hash, rules=base.rules)

    with engine.using(numbered(0)) as held:
        for number in range(1, 20):
            with engine.using(numbered(number)):
                pass
        assert len(engine._held) <= 16
        assert held.check(media.still()).decision in ("allow", "review")  # evicted, but not closed under its user
    assert engine.check_media(media.still(), None, name="x").decision == "allow"


def test_a_full_line_of_clips_is_refused(engine: Engine) -> None:
    clip = media.render(frames=60)
    waiting = [engine.submit_media(clip, None, name="x") for _ in range(2)]
    with pytest.raises(Capacity, match="2"):
        engine.submit_media(clip, None, name="x")
    assert all(future.result().sha256 for future in waiting)
    assert engine.submit_media(clip, None, name="x").result().decision == waiting[0].result().decision


def verdict(text: str) -> Verdict:
    policy = PolicyRef(name="p", version="1", hash="f" * 64)
    return Verdict(decision="allow", source=text, sha256=None, policy=policy, rationale="")


class Slow:
    """Checks texts when told to, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], str]] = []
        self.go = threading.Event()

    def __call__(self, texts: Sequence[str], policy: Policy) -> list[Verdict]:
        self.go.wait(10)
        self.batches.append((list(texts), policy.name))
        if "boom" in texts:
            raise DetectorFailed("boom")
        return [verdict(text) for text in texts]


def test_texts_that_wait_are_judged_together_each_under_its_policy() -> None:
    slow = Slow()
    batcher = TextBatcher(slow, max_pending=100)
    first = batcher.submit(["a"], POLICY)
    while batcher.pending:
        pass
    others: list[Future[Verdict]] = []
    other = load_policy("toxicity")
    for texts, policy in ((["b", "c"], POLICY), (["d"], POLICY), (["e"], other), (["f"], POLICY)):
        others += batcher.submit(texts, policy)
    slow.go.set()
    assert [future.result(10).source for future in first + others] == list("abcdef")
    assert slow.batches == [(["a"], "spam"), (["b", "c", "d"], "spam"), (["e"], "toxicity"), (["f"], "spam")]
    batcher.close()
    with pytest.raises(Capacity, match="shutting down"):
        batcher.submit(["g"], POLICY)


def test_a_full_line_of_texts_takes_all_or_none_and_an_error_reaches_who_asked() -> None:
    slow = Slow()
    batcher = TextBatcher(slow, max_pending=3)
    running = batcher.submit(["a"], POLICY)
    while batcher.pending:
        pass
    waiting = batcher.submit(["b", "boom"], POLICY)
    with pytest.raises(Capacity):
        batcher.submit(["c", "d"], POLICY)
    assert batcher.pending == 2
    slow.go.set()
    assert running[0].result(10).source == "a"
    for future in waiting:
        with pytest.raises(DetectorFailed):
            future.result(10)
    assert batcher.submit(["later"], POLICY)[0].result(10).source == "later"
    batcher.close()


class Counting:
    """A real encoder whose passes can be held up and are counted."""

    def __init__(self, fail_above: int = 1000) -> None:
        self.encoder = tiny.tiny().encoder
        self.sizes: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.fail_above = fail_above

    def embed(self, clips: UInt8Array) -> Float32Array:
        self.begun.set()
        self.go.wait(20)
        self.sizes.append(len(clips))
        if len(clips) > self.fail_above:
            raise MemoryError
        return self.encoder.embed(clips)


@pytest.mark.parametrize("fail_above", [1000, 3])
def test_clips_that_wait_share_a_pass_and_get_what_they_would_have_got_alone(fail_above: int) -> None:
    counting = Counting(fail_above)
    shared = Coalesced(counting)
    rng = np.random.default_rng(1)
    clips = [rng.integers(0, 255, (n, 3, 128, side, 3), dtype=np.uint8) for n, side in
             ((1, 160), (2, 160), (3, 160), (1, 128), (2, 160))]  # fmt: skip
    found: dict[int, Float32Array] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: shared.embed(clips[n])})) for n in range(len(clips))
    ]
    threads[0].start()
    counting.begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(shared._line) < 4:
        pass
    counting.go.set()
    for thread in threads:
        thread.join()
    for number, own in enumerate(clips):
        np.testing.assert_allclose(found[number], counting.encoder.embed(own), atol=2e-5)
    if fail_above == 1000:
        assert sorted(counting.sizes) == [1, 1, 7]  # the first alone, the other shape alone, the rest in one pass
    else:
        assert sorted(counting.sizes) == [1, 1, 2, 2, 3, 7]


def test_an_encoder_in_main_memory_is_left_alone() -> None:
    detector = tiny.tiny()
    assert not on_accelerator(detector.encoder)
    before = detector.encoder
    coalesce([detector])
    assert detector.encoder is before


def test_nothing_is_sent_to_a_path(tmp_path: Path) -> None:
    from guard.errors import PolicyNotFound
    from policies.store import PolicyStore
    from serve.policy_access import PolicyAccess
    from serve.store.migrate import migrate
    from serve.store.session import Database

    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    migrate(database)
    (tmp_path / "mine.yaml").write_text("schema: 1")
    access = PolicyAccess(database, PolicyStore(tmp_path / "policies.sqlite3"))
    with pytest.raises(PolicyNotFound):
        access.resolve("a", str(tmp_path / "mine.yaml"))
    database.close()
