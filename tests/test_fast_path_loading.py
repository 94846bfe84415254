"""Which detector runs a checkpoint, and what is refused."""

import json

import pytest

from fast_path import checkpoint
from fast_path.detectors import probe
from fast_path.encoders import siglip
from fast_path.loading import classifier_of, load_detectors
from fast_path.tiny_models import make
from guard import plugins
from guard.config import load_settings
from guard.errors import InvalidConfig, UnknownPart


@pytest.fixture(scope="module")
def hub_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    encoder = siglip.build(siglip.tiny_config(make("siglip", folder / "model")))
    probe.write_untrained(folder / "checkpoint", "siglip", encoder.settings, encoder.dimension)
    return folder / "checkpoint"


def test_the_encoder_of_a_checkpoint_says_which_detector_runs_it(hub_checkpoint):
    assert classifier_of(hub_checkpoint) == "probe"
    found = load_detectors(("tiny", "flash"), hub_checkpoint)
    assert [detector.name for detector in found] == ["probe", "flash"]
    assert found[0].fingerprint == plugins.load("detector", "probe", weights=hub_checkpoint).fingerprint
    assert [d.name for d in load_detectors(("tiny", "probe", "flash"), hub_checkpoint)] == ["probe", "flash"]


def test_without_a_checkpoint_the_names_are_what_is_loaded():
    assert [detector.name for detector in load_detectors(("flash", "tiny"))] == ["flash", "tiny"]
    with pytest.raises(UnknownPart, match="Did you mean 'flash'"):
        load_detectors(("flahs",))


def test_a_checkpoint_that_nothing_would_run_is_refused(hub_checkpoint):
    with pytest.raises(InvalidConfig, match="names nothing that could run it: flash"):
        load_detectors(("flash",), hub_checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: [config],
        lambda config: {**config, "format": 2},
        lambda config: {**config, "encoder": "tiny"},
        lambda config: {**config, "encoder": {"settings": {}}},
        lambda config: {**config, "encoder": {"name": "siglip"}},
        lambda config: {**config, "head": None},
    ],
)
def test_a_checkpoint_that_is_none_is_a_typed_error(hub_checkpoint, tmp_path, change):
    config = json.loads((hub_checkpoint / checkpoint.CONFIG).read_text())
    (tmp_path / checkpoint.CONFIG).write_text(json.dumps(change(config)))
    (tmp_path / checkpoint.WEIGHTS).write_bytes((hub_checkpoint / checkpoint.WEIGHTS).read_bytes())
    with pytest.raises(InvalidConfig, match=r"checkpoint|must hold"):
        load_detectors(("tiny",), tmp_path)


def test_the_setting_comes_from_file_environment_and_command_line(tmp_path, monkeypatch):
    file = tmp_path / "guard.toml"
    file.write_text(f'fast_checkpoint = "{tmp_path / "a"}"\n')
    assert load_settings(file).fast_checkpoint == tmp_path / "a"
    monkeypatch.setenv("GUARD_FAST_CHECKPOINT", str(tmp_path / "b"))
    assert load_settings(file).fast_checkpoint == tmp_path / "b"
    assert load_settings(file, fast_checkpoint=tmp_path / "c").fast_checkpoint == tmp_path / "c"
