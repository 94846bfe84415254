import hashlib
import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fast_path import card, checkpoint, dataset, provenance, train
from fast_path.augment import augment_clip, augment_maps
from fast_path.detectors import tiny as detectors
from fast_path.fit import FitSettings
from guard.errors import InvalidConfig, InvalidManifest, NoVideoStream, ResumeMismatch, Undecodable
from tests import media

SHAKY, WARM = "violence.fighting", "illegal.fire"
SETTINGS = train.TrainSettings(
    categories=(SHAKY, WARM),
    passes=2,
    workers=1,
    bootstrap_draws=20,
    fit=FitSettings(epochs=3, videos_per_step=4, stills_per_step=1, bursts_per_video=(1, 3), average_from=0.3),
)
ENCODER = {"width": 8}


def render(path, kind, seed, seconds=1.2, fps=12):
    rng = np.random.default_rng(seed)
    background = cv2.resize(rng.integers(0, 90, (12, 16, 3), dtype=np.uint8), (128, 96))
    if kind == WARM:
        background[..., 0] = 230
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 96, "yuv420p", 400_000
        for index in range(int(seconds * fps)):
            picture = background.copy()
            x, y = rng.integers(10, 90, 2) * (1, 0.6) if kind == SHAKY else (20 + index, 30)
            cv2.circle(picture, (int(x) + 10, int(y) + 10), 9, (240, 240, 240), -1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for index in range(9):
        kind = (SHAKY, WARM, "")[index % 3]
        path = folder / f"clip{index}.mp4"
        render(path, kind, index)
        split = "val" if index >= 6 else "train"
        lines.append({"path": path.name, "labels": [kind] if kind else [], "split": split, "group": f"g{index}"})
    cv2.imwrite(str(folder / "still.png"), np.full((60, 90, 3), (0, 60, 240), np.uint8))
    lines.append({"path": "still.png", "labels": [WARM], "split": "train", "group": "s"})
    (folder / "broken.mp4").write_bytes(b"not a video")
    lines.append({"path": "broken.mp4", "labels": [], "split": "train", "group": "b"})
    file = folder / "manifest.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return file


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    seen = []
    result = train.train_fast(
        manifest,
        "tiny",
        out,
        seed=1,
        settings=SETTINGS,
        encoder_settings=ENCODER,
        progress=lambda *step: seen.append(step),
    )
    return out, result, seen


def test_it_writes_weights_metrics_and_card(trained):
    out, result, seen = trained
    report = json.loads((out / train.METRICS).read_text())
    assert set(report["validation"]) >= {"this model", "always safe"}
    assert report["validation"]["this model"][SHAKY]["auroc"]["positives"] == 1
    assert report["validation"]["always safe"][WARM]["auroc"]["value"] == 0.5
    card = (out / checkpoint.CARD).read_text()
    assert SHAKY in card
    assert "rights" in card
    assert ("prepare", 11, 11) in seen
    assert ("train", 3, 3) in seen
    assert result.epoch >= 0


def test_what_cannot_be_read_is_named(trained):
    _, result, _ = trained
    assert len(result.failed) == 1
    assert "broken.mp4" in result.failed[0]


def test_the_detector_runs_the_checkpoint(trained):
    out, _, _ = trained
    detector = detectors.build(detectors.Config(weights=out))
    assert detector.categories == (SHAKY, WARM)
    clips = np.zeros((2, detector.encoder.clip_frames, 96, 128, 3), np.uint8)
    assert detector.encoder.embed(clips).shape == (2, detector.encoder.dimension)


def weights(folder):
    return load_file(folder / checkpoint.WEIGHTS)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(manifest, trained, tmp_path):
    out, _, _ = trained

    class KilledError(Exception):
        pass

    def kill(stage, done, total):
        if stage == "train" and done == 2:
            raise KilledError

    cached = replace(SETTINGS, cache=out / "cache")
    with pytest.raises(KilledError):
        train.train_fast(manifest, "tiny", tmp_path, seed=1, settings=cached, encoder_settings=ENCODER, progress=kill)
    assert not (tmp_path / checkpoint.WEIGHTS).exists()
    train.train_fast(manifest, "tiny", tmp_path, seed=1, settings=cached, encoder_settings=ENCODER)
    first, second = weights(out), weights(tmp_path)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-6, err_msg=name)
    assert (out / checkpoint.CONFIG).read_bytes() == (tmp_path / checkpoint.CONFIG).read_bytes()


def test_a_state_of_another_run_is_refused(manifest, trained, tmp_path):
    out, _, _ = trained
    (tmp_path / "state.pt").write_bytes((out / "state.pt").read_bytes())
    other = replace(SETTINGS, cache=out / "cache", fit=replace(SETTINGS.fit, epochs=4))
    with pytest.raises(ResumeMismatch):
        train.train_fast(manifest, "tiny", tmp_path, seed=1, settings=other, encoder_settings=ENCODER)


def lines_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def write_lines(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_state_of_a_run_for_other_categories_is_refused(manifest, trained, tmp_path):
    """Two heads of one shape fit into each other: only the names tell a head for fire from one for accidents."""
    out, _, _ = trained
    lines = [{**line, "path": str(manifest.parent / line["path"])} for line in lines_of(manifest)]
    rows = write_lines(
        tmp_path / "m.jsonl", [{**line, "labels": [*line["labels"], "accidents.road"]} for line in lines]
    )
    shape = replace(SETTINGS, cache=out / "cache", passes=1, fit=replace(SETTINGS.fit, epochs=1))
    first = replace(shape, categories=(SHAKY, WARM))
    train.train_fast(rows, "tiny", tmp_path / "run", seed=1, settings=first, encoder_settings=ENCODER)
    for other in (replace(shape, categories=(SHAKY, "accidents.road")), replace(first, passes=2)):
        with pytest.raises(ResumeMismatch):
            train.train_fast(rows, "tiny", tmp_path / "run", seed=1, settings=other, encoder_settings=ENCODER)


def test_what_is_validated_on_may_not_be_trained_on_under_another_manifest_or_name(manifest, tmp_path):
    clip = lines_of(manifest)[0]
    path = str(manifest.parent / clip["path"])
    moved = write_lines(tmp_path / "group.jsonl", [{**clip, "path": path, "split": "val"}])
    renamed = write_lines(tmp_path / "content.jsonl", [{**clip, "path": path, "split": "test", "group": "new"}])
    for other, kind in ((moved, "group 'g0'"), (renamed, "sha256")):
        with pytest.raises(InvalidManifest, match=f"The {kind}.* is in two splits"):
            train.train_fast([manifest, other], "tiny", tmp_path / "run", settings=SETTINGS)


def test_labels_that_leave_a_category_open_teach_nothing(manifest, trained, tmp_path):
    out, _, _ = trained
    lines = [{**line, "path": str(manifest.parent / line["path"])} for line in lines_of(manifest)]
    lines[2] |= {"labels": ["violence"]}  # may be a fight: no negative for fights
    rows = write_lines(tmp_path / "m.jsonl", lines)
    short = replace(SETTINGS, cache=out / "cache", fit=replace(SETTINGS.fit, epochs=1))
    result = train.train_fast(rows, "tiny", tmp_path / "run", seed=1, settings=short, encoder_settings=ENCODER)
    assert (
        sum(
            "clip2.mp4: its labels (violence) leave open whether it shows violence.fighting" in f for f in result.failed
        )
        == 1
    )
    seen = provenance.load(tmp_path / "run")
    row = next(r for r in dataset.read_manifest(rows) if r.path.name == "clip2.mp4")
    assert not seen.trained_on(row)


def test_the_clips_of_a_run_are_known_by_their_content(manifest, trained):
    out, _, _ = trained
    seen = provenance.load(out)
    for row in dataset.read_manifest(manifest):
        readable = row.path.name != "broken.mp4"
        assert seen.trained_on(row) == (row.split == "train" and readable)
        assert seen.stopped_by(row) == (row.split == "val")
    assert provenance.load(out.parent) == provenance.Seen()


def test_a_category_whose_clips_all_fail_is_refused(manifest, tmp_path):
    lines = [{**line, "path": str(manifest.parent / line["path"])} for line in lines_of(manifest)]
    for line in lines:
        line["labels"] = ["accidents.road"] if "broken" in line["path"] else line["labels"]
    rows = write_lines(tmp_path / "m.jsonl", lines)
    settings = replace(SETTINGS, categories=(SHAKY, "accidents.road"))
    with pytest.raises(InvalidManifest, match=r"could be read and is labelled accidents\.road"):
        train.train_fast(rows, "tiny", tmp_path / "run", settings=settings, encoder_settings=ENCODER)


def test_a_run_that_diverges_says_so(manifest, trained, tmp_path):
    out, _, _ = trained
    wild = replace(SETTINGS, cache=out / "cache", fit=replace(SETTINGS.fit, epochs=2, learning_rate=float("inf")))
    with pytest.raises(InvalidConfig, match="diverged"):
        train.train_fast(manifest, "tiny", tmp_path, seed=1, settings=wild, encoder_settings=ENCODER)
    assert not (tmp_path / checkpoint.WEIGHTS).exists()


def test_a_checkpoint_of_other_maps_is_refused(trained, tmp_path):
    out, _, _ = trained
    config = json.loads((out / checkpoint.CONFIG).read_text())
    assert config["encoder"]["front"] == "motion-3-L3"
    for change, match in (({"front": "motion-2-L3"}, "trained on maps"), ({"settings": {"model": "x"}}, "not one of")):
        (tmp_path / checkpoint.CONFIG).write_text(json.dumps({**config, "encoder": {**config["encoder"], **change}}))
        (tmp_path / checkpoint.WEIGHTS).write_bytes((out / checkpoint.WEIGHTS).read_bytes())
        with pytest.raises(InvalidConfig, match=match):
            detectors.build(detectors.Config(weights=tmp_path))


def test_the_card_of_a_frozen_encoder_does_not_claim_its_weights(manifest):
    rows = dataset.read_manifest(manifest)
    common = {"name": "x", "rows": rows, "categories": (WARM,), "results": {}, "recipe": "", "parameters": 9}
    assert "trained from scratch" in card.write(**common)
    assert "trained from scratch" not in card.write(**common, frozen=True)


def test_training_leaves_no_trace_of_order_in_the_targets(manifest):
    rows = dataset.read_manifest(manifest)
    targets = dataset.targets(rows, ("violence", "violence.fighting", "illegal.fire"))
    assert targets.shape == (11, 3)
    np.testing.assert_array_equal(targets[:, 0], targets[:, 1])  # a child counts for its ancestor
    assert targets[:, 2].sum() == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a", "labels": []}', "lacks split, group"),
        ('{"path": "still.png", "labels": ["violence.fightin"], "split": "train", "group": "x"}', "violence.fighting"),
        ('{"path": "gone.mp4", "labels": [], "split": "train", "group": "x"}', "gone.mp4"),
        ("{", "cannot be read"),
        ("", "no rows"),
        ("[1]", "must hold an object"),
        ('{"path": "still.png", "labels": "illegal.fire", "split": "train", "group": "x"}', "labels must be a list"),
        ('{"path": "still.png", "labels": [], "split": "train", "group": "x", "start_s": "soon"}', "start_s must be"),
        (
            '{"path": "still.png", "labels": [], "split": "train", "group": "x", "start_s": 2, "end_s": 1}',
            "after start_s",
        ),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path, line, message):
    cv2.imwrite(str(tmp_path / "still.png"), np.zeros((8, 8, 3), np.uint8))
    file = tmp_path / "m.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(InvalidManifest, match=message):
        dataset.read_manifest(file)


def test_a_group_in_two_splits_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    lines = [{"path": "a.png", "labels": [], "split": split, "group": "same"} for split in ("train", "val")]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InvalidManifest, match="same"):
        dataset.read_manifest(file)


def test_a_csv_manifest_reads_like_jsonl(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    file = tmp_path / "m.csv"
    file.write_text("path,labels,split,group,start_s\na.png,illegal.fire;accidents.road,train,g,1.5\na.png,,train,g,\n")
    first, second = dataset.read_manifest(file)
    assert first.labels == ("illegal.fire", "accidents.road")
    assert (first.sha256, first.start_seconds, first.still) == (digest, 1.5, True)
    assert (second.labels, second.start_seconds) == ((), 0.0)


def test_a_category_without_a_training_clip_is_refused(manifest, tmp_path):
    with pytest.raises(InvalidManifest, match=r"accidents\.road"):
        train.train_fast(manifest, "tiny", tmp_path, settings=replace(SETTINGS, categories=("accidents.road",)))


def test_bursts_are_the_nearest_frames_and_short_clips_repeat(manifest):
    row = next(r for r in dataset.read_manifest(manifest) if r.path.name == "clip0.mp4")
    length = dataset.duration_seconds(row)
    assert length == pytest.approx(13 / 12, abs=0.02)
    plan = dataset.even_plan(length, frames=4, spacing=0.12)
    (clips,) = dataset.read_bursts(row, [plan], frames=4, side_px=48)
    assert clips.shape == (8, 4, 48, 64, 3)
    too_long = dataset.BurstPlan(starts_seconds=np.asarray([50.0]), spacing_seconds=np.asarray([0.1]))
    (clips,) = dataset.read_bursts(row, [too_long], frames=4, side_px=48)
    assert np.array_equal(clips[0, 0], clips[0, 3])


def nearest_by_definition(row, times, side_px):
    """Every frame is scaled and kept, and each time takes the first of the nearest."""
    found = [(seconds, dataset._scaled(frame, side_px)) for seconds, frame in dataset._frames(row)]
    return np.stack([min(found, key=lambda pair: abs(pair[0] - time))[1] for time in times])


def test_the_nearest_frame_is_found_without_keeping_the_others(manifest, monkeypatch):
    row = next(r for r in dataset.read_manifest(manifest) if r.path.name == "clip1.mp4")
    times = np.unique(np.r_[-1.0, np.random.default_rng(0).uniform(0, 1.3, 9), 5 / 24, 9.0])  # 5 / 24 lies halfway
    scaled = []
    monkeypatch.setattr(dataset, "_painted", lambda frame, *_: scaled.append(1) or dataset._scaled(frame, 48))
    pictures, owner = dataset._nearest(row, times, 48)
    np.testing.assert_array_equal(pictures[owner], nearest_by_definition(row, times, 48))
    assert len(scaled) == len(pictures) <= len(times)


def rows_of(folder, *names):
    lines = [{"path": name, "labels": [], "split": "train", "group": name} for name in names]
    return dataset.read_manifest(write_lines(folder / "rows.jsonl", lines))


def test_a_turned_clip_is_trained_on_as_it_is_shown(tmp_path):
    (tmp_path / "upright.mp4").write_bytes(media.render(frames=10))
    (tmp_path / "turned.mp4").write_bytes(media.rotated(media.render(frames=10), 90))
    plan = dataset.even_plan(0.3, frames=3, spacing=0.05)
    shown = [
        dataset.read_bursts(row, [plan], frames=3, side_px=64)[0]
        for row in rows_of(tmp_path, "upright.mp4", "turned.mp4")
    ]
    assert [clips.shape[2:4] for clips in shown] == [(64, 96), (96, 64)]
    assert media.corner_colours(shown[0][0, 0]) == {"top left": "red", "bottom right": "blue"}
    assert media.corner_colours(shown[1][0, 0]) == {"top right": "red", "bottom left": "blue"}


def test_a_file_without_pictures_is_left_out_and_named(tmp_path):
    (tmp_path / "sound.mp4").write_bytes(media.audio_only())
    (row,) = rows_of(tmp_path, "sound.mp4")
    with pytest.raises(NoVideoStream):
        dataset.duration_seconds(row)
    with pytest.raises(NoVideoStream):
        dataset.read_bursts(row, [dataset.even_plan(1.0, frames=3, spacing=0.12)], frames=3, side_px=32)


def test_a_decode_that_breaks_off_is_an_error_and_not_a_short_clip(manifest, monkeypatch):
    row = next(r for r in dataset.read_manifest(manifest) if r.path.name == "clip0.mp4")
    whole = list(dataset._frames(row))

    def breaks(_):
        yield from whole[:5]
        raise av.error.InvalidDataError(1, "broken")

    monkeypatch.setattr(dataset, "_frames", breaks)
    plan = dataset.even_plan(1.0, frames=3, spacing=0.12)
    with pytest.raises(Undecodable, match=r"beyond 0\.3 s"):
        dataset.read_bursts(row, [plan], frames=3, side_px=32)
    early = dataset.BurstPlan(starts_seconds=np.zeros(1), spacing_seconds=np.asarray([0.1]))
    assert len(dataset.read_bursts(row, [early], frames=3, side_px=32)[0]) == 1  # all that was asked for was there


def test_an_unreadable_clip_is_a_typed_error(manifest):
    row = next(r for r in dataset.read_manifest(manifest) if r.path.name == "broken.mp4")
    with pytest.raises(Undecodable):
        dataset.duration_seconds(row)


@pytest.mark.parametrize("length", [0.0, 0.4, 2.0, 9.0, 400.0])
def test_random_plans_look_at_long_and_short_clips_alike(length):
    rng = np.random.default_rng(0)
    plan = dataset.random_plan(length, frames=3, spacing=0.12, rng=rng)
    starts = plan.starts_seconds
    assert 8 <= len(starts) <= dataset.MAX_BURSTS
    assert np.all(np.diff(starts) >= 0)
    assert starts[0] >= 0
    if length > 1:
        assert starts[-1] + 2 * plan.spacing_seconds[-1] <= length + 0.01
    crowd = [np.sum(np.abs(starts - start) <= dataset.WINDOW_SECONDS) for start in starts]
    assert min(crowd) >= 8


def test_augmentation_changes_pixels_but_neither_count_nor_the_input():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (3, 60, 90, 3), dtype=np.uint8)
    kept = clip.copy()
    for seed in range(30):
        changed = augment_clip(clip, np.random.default_rng(seed))
        assert (changed.dtype, len(changed), changed.shape[3]) == (np.uint8, 3, 3)
        assert changed.shape[1] >= 0.5 * 60
        np.testing.assert_array_equal(changed, augment_clip(clip, np.random.default_rng(seed)))
    np.testing.assert_array_equal(clip, kept)


def test_a_mirror_turns_the_flow_round():
    pairs, burst = torch.zeros(64, 2, 5, 20, 30), torch.zeros(64, 7, 20, 30)
    pairs[:, :, 0, :, :15] = 1.0  # the left half moves right
    found, _ = augment_maps(pairs, burst, np.random.default_rng(0))
    left, right = found[:, 0, 0, :, :15].mean((1, 2)), found[:, 0, 0, :, 15:].mean((1, 2))
    kept, mirrored = left > 0, right < 0
    assert torch.equal(kept, ~mirrored)
    assert 10 < int(kept.sum()) < 54


def test_a_missing_category_is_answered_with_those_that_are_there(manifest, tmp_path):
    settings = replace(SETTINGS, categories=(SHAKY, "accidents.road"))
    with pytest.raises(InvalidManifest, match=r"labelled accidents\.road") as caught:
        train.train_fast(manifest, "tiny", tmp_path / "run", settings=settings, encoder_settings=ENCODER)
    assert f"--category {SHAKY}" in caught.value.hint
