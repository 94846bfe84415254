"""Opening inputs, and the bounds on them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from types import SimpleNamespace

import pytest

from guard.api import limits_of
from guard.config import Settings
from guard.errors import (
    InputChanged,
    InputNotFound,
    InputUnreadable,
    InvalidConfig,
    TooLarge,
    Undecodable,
    UnsupportedMediaType,
)
from guard.limits import DECODERS, DEMUXERS, Limits, looks_like_media, refused_start
from guard.types import Video
from guard.video.source import content_fd, open_video

CONTENT = b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 10


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "clip.mp4"
    target.write_bytes(CONTENT)
    return target


def test_path_bytes_and_file_object_give_one_identity(path):
    videos = [
        open_video(path),
        open_video(str(path)),
        open_video(CONTENT),
        open_video(io.BytesIO(CONTENT), name="x.mp4"),
    ]
    assert {video.sha256 for video in videos} == {hashlib.sha256(CONTENT).hexdigest()}
    assert {video.size_bytes for video in videos} == {len(CONTENT)}
    assert [video.source for video in videos] == [str(path), str(path), "upload", "x.mp4"]


@pytest.mark.parametrize("video_of", [open_video, lambda path: open_video(path.read_bytes())], ids=["path", "bytes"])
def test_content_fd_gives_the_content_from_its_start(path, video_of):
    with content_fd(video_of(path)) as fd:
        assert os.read(fd, 1 << 20) == CONTENT


@pytest.mark.parametrize("name", ["missing.mp4", "clip.mp4/x", "nul\0.mp4"])
def test_no_such_file(path, name):
    with pytest.raises(InputNotFound):
        open_video(path.parent / name)


def test_links_devices_pipes_and_folders_are_refused_without_waiting(path, tmp_path):
    (tmp_path / "link.mp4").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in (tmp_path / "link.mp4", tmp_path / "pipe.mp4", tmp_path, "/dev/zero"):
        with pytest.raises(InputUnreadable):
            open_video(name)


def test_empty_and_large(tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for source in (empty, b"", io.BytesIO()):
        with pytest.raises(Undecodable, match="empty"):
            open_video(source)
    for source in (CONTENT, io.BytesIO(CONTENT)):
        with pytest.raises(TooLarge, match="at most 100"):
            open_video(source, limits=Limits(max_bytes=100))


@pytest.mark.parametrize(
    "text",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"\xef\xbb\xbf  #extm3u\nhttp://127.0.0.1/",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD/>",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        b"just some words in a text file, no video at all",
    ],
)
def test_playlists_and_text_never_reach_a_decoder(tmp_path, text):
    target = tmp_path / "innocent.mp4"
    target.write_bytes(text)
    with pytest.raises(UnsupportedMediaType):
        open_video(target)
    assert refused_start(text) is not None


def test_media_is_not_taken_for_text():
    for head in (CONTENT[:64], b"RIFF\x10\x00\x00\x00AVI LIST", b"GIF89a\x10\x00\x10\x00", b"\x1aE\xdf\xa3\x01"):
        assert refused_start(head) is None
        assert looks_like_media(head)


def test_changed_between_hash_and_use(path):
    video = open_video(path)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(InputChanged), content_fd(video):
        pass


def test_changed_during_use(path):
    video = open_video(path)
    with pytest.raises(InputChanged, match="while it was decoded"), content_fd(video):
        path.write_bytes(CONTENT + b"more")


def test_a_video_hashed_elsewhere_is_checked_by_its_hash(path):
    honest = Video(source="x", sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT), path=path)
    with content_fd(honest) as fd:
        assert os.read(fd, 4) == CONTENT[:4]
    wrong = Video(source="x", sha256="0" * 64, size_bytes=len(CONTENT), path=path)
    with pytest.raises(InputChanged), content_fd(wrong):
        pass


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_limits_name_what_is_wrong(wrong):
    with pytest.raises(InvalidConfig, match="max_frames"):
        Limits(max_frames=wrong)
    with pytest.raises(InvalidConfig, match="max_seconds"):
        limits_of(Settings(limits={"max_seconds": wrong}))
    with pytest.raises(InvalidConfig, match="max_bytes"):
        limits_of(Settings(limits={"max_bytes": wrong}))


def test_a_disk_that_fails_costs_one_input_an_error(path, monkeypatch):
    video = open_video(path)
    os.utime(path, ns=(0, 0))  # so that it is hashed again

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(InputUnreadable, match="Input/output error"):
        open_video(path)
    with pytest.raises(InputUnreadable, match="Input/output error"), content_fd(video):
        pass
    with pytest.raises(InputUnreadable, match="Input/output error"):
        open_video(SimpleNamespace(read=fail), name="pipe")


def test_dangerous_formats_are_not_on_the_lists():
    assert not {"hls", "concat", "dash", "sdp", "lavfi", "image2", "rtsp", "tee"} & set(DEMUXERS)
    assert not {"magicyuv", "jpeg2000", "exr", "xbin", "ansi", "wrapped_avframe"} & set(DECODERS)
