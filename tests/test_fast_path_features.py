import numpy as np
import pytest

from fast_path.features import FeatureCache


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(folder=tmp_path / "cache")


def test_key_depends_on_content_encoder_and_settings(cache):
    keys = {
        cache.key("a" * 64, "enc", {"seed": 1}),
        cache.key("b" * 64, "enc", {"seed": 1}),
        cache.key("a" * 64, "other", {"seed": 1}),
        cache.key("a" * 64, "enc", {"seed": 2}),
    }
    assert len(keys) == 4
    assert cache.key("a" * 64, "enc", {"x": 1, "y": 2}) == cache.key("a" * 64, "enc", {"y": 2, "x": 1})


def test_round_trip_and_second_use_does_not_compute(cache):
    calls = []

    def make():
        calls.append(1)
        return {"embeddings": np.arange(6, dtype=np.float32).reshape(2, 3), "seconds": np.asarray([0.0, 1.0])}

    first, second = cache.get("k" * 40, make), cache.get("k" * 40, make)
    assert len(calls) == 1
    assert second["embeddings"].dtype == np.float32
    np.testing.assert_array_equal(first["embeddings"], second["embeddings"])


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_file_is_made_anew(cache, damage):
    key = "d" * 40
    cache.save(key, {"x": np.ones(100)})
    path = cache.path(key)
    path.write_bytes(path.read_bytes()[:80] if damage is None else damage)
    assert cache.load(key) is None
    assert cache.get(key, lambda: {"x": np.zeros(2)})["x"].shape == (2,)


def test_a_failed_write_leaves_nothing(cache, monkeypatch):
    def broken(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        cache.save("f" * 40, {"x": np.ones(2)})
    assert not list(cache.folder.rglob("*.*"))


def test_absent_is_none(cache):
    assert cache.load("0" * 40) is None
