"""Which files are inputs: every one once, in a fixed order, links never followed, odd names safe."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.inputs import Input, Selection, display, expand, in_shard, list_inputs, parse_list, path_from_json
from serve.sidecars import is_text


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(root: Path, *paths: str, **options: object) -> list[str]:
    listing = list_inputs([str(root / path) for path in paths or ("",)], **options)  # type: ignore[arg-type]
    return [os.path.relpath(entry.path, root) for entry in listing.inputs]


def codes(root: Path, *paths: str) -> dict[str, str | None]:
    listing = list_inputs([str(root / path) for path in paths or ("",)])
    return {os.path.relpath(e.path, root): e.error.code if e.error else None for e in listing.inputs}


def test_directories_are_walked_in_byte_order_depth_first(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.mp4", "a/c/d.mp4", "Z.mp4", "é.mp4", "a.mp4")
    assert names(tmp_path) == ["Z.mp4", "a/c/d.mp4", "a/z.mp4", "a.mp4", "b.mp4", "é.mp4"]


def test_every_kind_of_file_is_an_input_but_hidden_ones_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.xyz", "b", ".hidden.mp4", ".git/c.mp4")
    listing = list_inputs([str(tmp_path)])
    assert [Path(entry.path).name for entry in listing.inputs] == ["a.xyz", "b"]
    assert listing.left_out == {"hidden": 2}
    assert names(tmp_path, ".hidden.mp4") == [".hidden.mp4"], "a hidden file that is named is meant"


def test_links_fifos_sockets_and_missing_paths_are_lines_with_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real/a.mp4")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    (tmp_path / "to_file").symlink_to("real/a.mp4")
    (tmp_path / "to_dir").symlink_to("real")
    (tmp_path / "to_self").symlink_to("to_self")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        found = codes(tmp_path)
    refused = dict.fromkeys(["pipe", "sock", "to_dir", "to_file", "to_self"], "input_unreadable")
    assert found == {**refused, "real/a.mp4": None}
    assert codes(tmp_path, "none.mp4", "real/a.mp4/below", "to_file") == {
        "none.mp4": "input_not_found",
        "real/a.mp4/below": "input_not_found",
        "to_file": "input_unreadable",
    }


def test_a_path_no_system_can_have_is_a_line_too() -> None:
    long, nul = list_inputs([], literal=["x" * 5000, "a\0b"]).inputs
    assert long.error is not None
    assert "too long" in long.error.message
    assert nul.error is not None
    assert nul.error.code == "input_unreadable"


def test_a_directory_that_cannot_be_listed_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "closed/a.mp4", "open/b.mp4")
    real = os.scandir

    def guarded(path: str) -> object:  # by hand, since root may list what a mode of 0 closes
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert codes(tmp_path) == {"closed": "input_unreadable", "open/b.mp4": None}


def test_globs_do_not_cross_links_and_are_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.mp4", "a/2.mp4", "a/.h.mp4", "a/x/3.mp4", "a/x/4.avi")
    (tmp_path / "a" / "loop").symlink_to("..")
    assert names(tmp_path, "*/*.mp4") == ["a/2.mp4", "b/1.mp4"]
    assert names(tmp_path, "**/*.mp4") == ["a/2.mp4", "a/x/3.mp4", "b/1.mp4"]
    assert names(tmp_path, "a/*/3.mp4") == ["a/loop", "a/x/3.mp4"], "the link is named, not crossed"
    assert codes(tmp_path, "a/loo*") == {"a/loop": "input_unreadable"}
    assert codes(tmp_path, "*.mov") == {"*.mov": "input_not_found"}


def test_two_links_to_the_parent_do_not_make_globs_explode(tmp_path: Path) -> None:
    touch(tmp_path, "d/a.mp4")
    for index in range(8):  # followed, these would give 8**40 paths
        (tmp_path / "d" / f"up{index}").symlink_to("..")
    assert names(tmp_path, "**/a.mp4") == ["d/a.mp4"]


def test_a_name_with_glob_characters_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a[1].mp4", "a1.mp4", "*.mp4")
    assert names(tmp_path, "a[1].mp4") == ["a[1].mp4"]
    assert names(tmp_path, "*.mp4") == ["*.mp4"]
    monkeypatch.chdir(tmp_path)
    assert expand("a[0-9].mp4") == ["a1.mp4"]


def test_lists_split_on_newlines_or_nul_and_know_no_globs(tmp_path: Path) -> None:
    touch(tmp_path, "*.mp4", "b.mp4")
    assert parse_list(b"a\n\nb c\n", null=False) == ["a", "b c"]
    assert parse_list(b"a\nb\0c\0", null=True) == ["a\nb", "c"]
    listed = list_inputs([], literal=[str(tmp_path / "*.mp4")]).inputs
    assert [Path(entry.path).name for entry in listed] == ["*.mp4"]


def test_names_of_any_bytes_survive_json(tmp_path: Path) -> None:
    raw = [b"new\nline.mp4", b"-rf.mp4", b"\xff\xfe.mp4", "a\u202egpj.4pm".encode(), b"\\xff\\xfe.mp4"]
    for name in raw:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    listed = list_inputs([str(tmp_path)]).inputs
    assert sorted(os.fsencode(entry.path).rpartition(b"/")[2] for entry in listed) == sorted(raw)
    for entry in listed:
        line = json.loads(json.dumps({"source": entry.source, **entry.to_json()}).encode("ascii"))
        line["source"].encode("utf-8")  # no lone surrogates
        assert path_from_json(line["source"], line) == entry.path


def test_include_and_exclude_match_names_and_paths_below_the_given_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.txt", "cache/c.mp4", "d/e.mp4")
    chosen = Selection(include=("*.mp4",), exclude=("cache/*",))
    listing = list_inputs([str(tmp_path)], selection=chosen)
    assert [os.path.relpath(e.path, tmp_path) for e in listing.inputs] == ["a.mp4", "d/e.mp4"]
    assert listing.left_out == {"not_included": 1, "excluded": 1}


def test_limit_keeps_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    touch(tmp_path, *"abcde")
    listing = list_inputs([str(tmp_path)], selection=Selection(limit=2))
    assert [Path(e.path).name for e in listing.inputs] == ["a", "b"]
    assert listing.left_out == {"over_limit": 3}


def test_the_run_directory_is_no_input_of_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "run/report.html")
    listing = list_inputs([str(tmp_path)], run_directory=str(tmp_path / "run"))
    assert [Path(e.path).name for e in listing.inputs] == ["a.mp4"]
    assert listing.left_out == {"run_directory": 1}


def test_a_very_deep_tree_is_walked(tmp_path: Path) -> None:
    here, depth = os.open(tmp_path, os.O_RDONLY), 900  # 900 levels of "d/" stay below the longest path allowed
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    assert [e.path.count("/d") for e in list_inputs([str(tmp_path)]).inputs] == [depth]


@given(st.lists(st.binary(min_size=1, max_size=12), unique=True), st.integers(1, 7))
def test_shards_are_disjoint_and_complete(paths: list[bytes], total: int) -> None:
    decoded = [os.fsdecode(path) for path in paths]
    shards = [[p for p in decoded if in_shard(p, (i, total))] for i in range(1, total + 1)]
    assert sorted(p for shard in shards for p in shard) == sorted(decoded)


@given(st.binary(min_size=1, max_size=20))
def test_display_is_text_and_the_path_comes_back(raw: bytes) -> None:
    entry = Input(path=os.fsdecode(raw))
    display(entry.path).encode("utf-8")
    assert path_from_json(entry.source, entry.to_json()) == entry.path


@pytest.mark.parametrize(
    ("name", "content", "left_out"),
    [
        ("manifest.jsonl", b'{"path": "a.mp4"}\n', True),
        ("clip.SRT", "1\n00:00:01,000 --> 00:00:02,000\nÜber\n".encode(), True),
        ("clip.en.vtt", b"\xef\xbb\xbfWEBVTT\n", True),
        ("notes.txt", "text".encode("utf-16"), True),
        ("empty.log", b"", True),
        ("long.csv", b"a" * 4095 + "ü".encode() + b"\0", True),
        ("movie.json", b"\0\0\0\x20ftypisom\0\0\x02\0", False),
        ("movie.txt", b"\x1aE\xdf\xa3\x93B\x82\x88matroska", False),
        ("gif.md", b"GIF89a\x10\0\x10\0\xf7\0\0", False),
        ("nul.json", b'{"a": "\0"}', False),
        ("text.mp4", b"plain text", False),
        ("noending", b"plain text", False),
        ("list.m3u8", b"#EXTM3U\n", False),
    ],
)
def test_sidecars_are_text_by_name_and_content(tmp_path: Path, name: str, content: bytes, left_out: bool) -> None:
    (tmp_path / name).write_bytes(content)
    listing = list_inputs([str(tmp_path)])
    assert [Path(entry.path).name for entry in listing.inputs] == [name] * (not left_out)
    assert listing.left_out == ({"sidecar": 1} if left_out else {})
    assert [Path(path).name for path in listing.sidecars] == [name] * left_out
    named = list_inputs([str(tmp_path / name)])
    assert (len(named.inputs), named.left_out) == (1, {}), "a path that is given is meant"
    asked = list_inputs([str(tmp_path)], selection=Selection(include=("*",)))
    assert len(asked.inputs) == 1, "so is one that a filter names"


def test_a_link_or_pipe_named_like_a_sidecar_is_still_a_line(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("text")
    (tmp_path / "link.json").symlink_to("real")
    os.mkfifo(tmp_path / "pipe.txt")
    assert codes(tmp_path) == {"link.json": "input_unreadable", "pipe.txt": "input_unreadable", "real": None}


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=3000), st.integers(0, 3))
def test_text_cut_anywhere_is_text(text: str, cut: int) -> None:
    head = text.encode()
    assert is_text(head[: len(head) - cut])
