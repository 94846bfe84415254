"""The published label files, where they are at hand: counts are the published ones. Videos are tiny stand-ins."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from eval.benchmarks import fakesv, hatecheck, hatemm, multihateclip, openai_moderation, ucf_crime, xd_violence
from eval.files import VideoFolder
from eval.rendering import tiny_clip
from eval.types import Benchmark
from guard.errors import InvalidManifest, UsageError

SHARED = Path(os.environ.get("VIDEO_GUARD_SHARED", Path(__file__).parents[2] / "shared"))
ANNOTATIONS, TEXT = SHARED / "data" / "annotations", SHARED / "data" / "text"
with_labels = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="the published label files are not at hand")


def labels(benchmark: Benchmark) -> Counter[str]:
    """Labels of every item, present or missing ones alike."""
    return Counter(label for item in benchmark.items for label in item.gold.labels or ("none",))


def clips(folder: Path, names: list[str]) -> None:
    """Give every name the same tiny clip, by hard link."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "first.bin"
    first.write_bytes(tiny_clip(0))
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(first, target)


@with_labels
def test_ucf_crime_counts(tmp_path: Path) -> None:
    source = ANNOTATIONS / "ucf_crime/ucf_crime_official__Temporal_Anomaly_Annotation.txt"
    shutil.copy(source, tmp_path / "Temporal_Anomaly_Annotation.txt")
    names = [line.split()[0] for line in source.read_text().splitlines() if line.strip()]
    clips(tmp_path / "videos", names)
    made = ucf_crime.build(ucf_crime.Config(data=tmp_path))
    published = dict(ucf_crime.ABOUT.counts)
    assert made.expected == published["videos"] == 290
    assert labels(made) == {"anomaly": published["anomalous"], "none": published["normal"]}
    stems = Counter(item.gold.stem for item in made.items)
    counted = {"Abuse": 2, "Arrest": 5, "Arson": 9, "Assault": 3, "Burglary": 13, "Explosion": 21, "Fighting": 5}
    counted |= {"RoadAccidents": 23, "Robbery": 5, "Shooting": 23, "Shoplifting": 21, "Stealing": 5, "Vandalism": 5}
    assert stems == {**counted, "Normal": 150}
    by_name = {item.gold.name: item.gold for item in made.items}
    assert by_name["Abuse028_x264.mp4"].spans_frames == ((165, 240),)


@with_labels
def test_xd_violence_counts(tmp_path: Path) -> None:
    shutil.copy(ANNOTATIONS / "ucf_xd_vadclip/vadclip_lists__list__annotations.txt", tmp_path / "annotations.txt")
    shutil.copy(ANNOTATIONS / "xd_violence/xd_violence_lists__list__rgb_test.list", tmp_path / "rgb_test.list")
    made = xd_violence.build(xd_violence.Config(data=tmp_path))
    assert made.expected == len(made.missing) == 800
    codes = Counter(one.name.rsplit("_label_", 1)[1] for one in made.missing)
    assert codes["A.mp4"] == 300
    assert {code: codes[f"{code}-0-0.mp4"] for code in ("B1", "B2", "B4", "B6", "G")} == {
        "B1": 107, "B2": 62, "B4": 99, "B6": 93, "G": 85,
    }  # fmt: skip
    clips(tmp_path / "videos", [one.name for one in made.missing[:40]])
    part = xd_violence.build(xd_violence.Config(data=tmp_path))
    assert (len(part.items), len(part.missing), part.partial) == (40, 760, True)


@with_labels
def test_fakesv_counts(tmp_path: Path) -> None:
    source = ANNOTATIONS / "fakesv"
    (tmp_path / "data-split/event").mkdir(parents=True)
    (tmp_path / "data-split/temporal").mkdir()
    shutil.copy(source / "fakesv__dataset__data.json", tmp_path / "data.json")
    for path in source.glob("fakesv__dataset__data-split__*.txt"):
        _, _, kind, name = path.name.rsplit("__", 3)
        shutil.copy(path, tmp_path / "data-split" / kind / name)
    everything = fakesv.build(fakesv.Config(data=tmp_path, split="all"))
    assert everything.expected == 3624
    assert "1871 debunking" in everything.notes[0]
    test = fakesv.build(fakesv.Config(data=tmp_path, split="temporal-test"))
    assert test.expected == 238 + 304
    assert "178 debunking" in test.notes[0]
    fold = fakesv.build(fakesv.Config(data=tmp_path, split="event-1"))
    assert fold.expected == 365 + 362
    with pytest.raises(UsageError, match="no split"):
        fakesv.build(fakesv.Config(data=tmp_path, split="fold-9"))


@with_labels
@pytest.mark.parametrize(
    ("language", "split", "rows", "counts"),
    [
        ("English", "test", 200, (133, 51, 16)),
        ("Chinese", "test", 200, (135, 40, 25)),
        ("English", "train", 701, (464, 180, 57)),
        ("English", "valid", 100, (65, 26, 9)),
        ("Chinese", "train", 699, (474, 136, 89)),
        ("Chinese", "valid", 101, (67, 20, 14)),
    ],
)
def test_multihateclip_counts(tmp_path: Path, language: str, split: str, rows: int, counts) -> None:
    folder = tmp_path / f"{language}_data"
    (folder / "annotation").mkdir(parents=True)
    source = ANNOTATIONS / f"multihateclip/multihateclip__{language}_data__annotation__{split}.tsv"
    shutil.copy(source, folder / f"annotation/{split}.tsv")
    names = [line.split("\t")[0] for line in source.read_text(encoding="utf-8").splitlines()[1:]]
    clips(folder / "videos", [f"{name}.mp4" for name in names])
    made = multihateclip.build(multihateclip.Config(data=tmp_path, language=language, split=split))
    assert made.expected == rows == multihateclip.ABOUT.counts[f"{language} {split}"]
    assert labels(made) == dict(zip(("none", "offensive", "hateful"), counts, strict=True))


@with_labels
def test_hatemm_takes_the_published_temporal_split(tmp_path: Path) -> None:
    """The annotation itself is not public here; the split file is, and its names carry the label."""
    names = (ANNOTATIONS / "hatemm_mhc_vids_splits/more_splits__data__HateMM__vids__test.csv").read_text().split()
    assert len(names) == 217
    (tmp_path / "test.csv").write_text("\n".join(names))
    extra = ["hate_video_9999", "non_hate_video_9999"]
    rows = [f"{n}.mp4,{'Non Hate' if n.startswith('non') else 'Hate'},," for n in (*names, *extra)]
    head = "video_file_name,label,hate_snippet,target\n"
    (tmp_path / "HateMM_annotation.csv").write_text(head + "\n".join(rows))
    made = hatemm.build(hatemm.Config(data=tmp_path, split_file="test.csv"))
    assert made.expected == 217


@with_labels
def test_hatecheck_counts() -> None:
    made = hatecheck.build(hatecheck.Config(data=TEXT))
    assert labels(made) == {"hate": 2563, "none": 1165}
    assert made.expected == hatecheck.ABOUT.counts["texts"] == 3728
    assert len({item.gold.stem for item in made.items}) == 29


@with_labels
def test_openai_moderation_leaves_unknown_labels_out() -> None:
    made = openai_moderation.build(openai_moderation.Config(data=TEXT, split="all"))
    assert made.expected < 1035
    assert "sexual" not in {column.id for column in made.columns}
    assert any(f"{1035 - made.expected} rows without any label" in note for note in made.notes)
    assert all(item.gold.known != () for item in made.items)
    assert any(item.gold.known for item in made.items)


def test_hate_snippets_and_durations() -> None:
    assert hatemm.snippets("[['00:00:34', '00:01:34'], ['1:00:00', '1:00:02']]", "x") == ((34, 94), (3600, 3602))
    assert hatemm.snippets("", "x") is None
    with pytest.raises(InvalidManifest, match="hate_snippet"):
        hatemm.snippets("[['later']]", "file, line 3")
    assert multihateclip.durations("[(2, 10), (30, 40)]", "x") == ((2, 10), (30, 40))
    with pytest.raises(InvalidManifest, match="Duration"):
        multihateclip.durations("soon", "x")


def test_xd_names_carry_the_labels() -> None:
    title, columns, codes = xd_violence.parse_name("Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6", "x")
    assert (title, columns, codes) == ("Bad.Boys.1995", ("explosion", "shooting", "car_accident"), "G-B2-B6")
    assert xd_violence.parse_name("v=q8__#1_label_A", "x")[1] == ()
    for bad in ("v=q8__#1_label_B3-0-0", "v=q8__#1", "label_A"):
        with pytest.raises(InvalidManifest, match="list, line 4"):
            xd_violence.parse_name(bad, "list, line 4")


def test_videos_are_found_by_stem_in_any_format(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/clip.WEBM").write_bytes(b"x")
    (tmp_path / "a/notes.txt").write_bytes(b"x")
    found = VideoFolder(tmp_path, "a")
    assert found.stems() == ("clip",)
    assert found.get("notes") is None
    assert found.wanted("other") == "a/other.mp4"
