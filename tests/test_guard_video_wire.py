"""The channel between worker and parent, with a liar at the other end."""

from __future__ import annotations

import math
import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.types import Coverage, MediaInfo
from guard.video import codec, seccomp, wire
from guard.video.reader import ReadRequest, ReadResult
from guard.video.streaming import checked_frames
from guard.video.wire import WireError


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(5)
        yield one, other


def test_round_trip_with_bytes_and_a_descriptor(pair, tmp_path):
    one, other = pair
    wire.send(one, {"event": "x", "n": [1, 2.5]}, b"abc")
    assert wire.receive(other) == ({"event": "x", "n": [1, 2.5]}, bytearray(b"abc"))
    with (tmp_path / "f").open("wb+") as file:
        wire.send(one, {"job": 1}, fd=file.fileno())
    message, fd = wire.receive_job(other)
    assert message == {"job": 1}
    os.close(fd)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">II", 1 << 31, 0),
        struct.pack(">II", 2, 1 << 31) + b"{}",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 3, 0) + b"{x}",
        struct.pack(">II", 100_000, 0) + b"[" * 100_000,
        struct.pack(">II", 10, 0) + b"{}",
        b"\x00",
        b"",
    ],
)
def test_malformed_messages_are_one_kind_of_error(pair, raw):
    one, other = pair
    one.sendall(raw)
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(WireError):
        wire.receive(other)


def test_too_much_is_not_sent(pair):
    with pytest.raises(WireError, match="over the limit"):
        wire.send(pair[0], {}, b"x" * (wire.MAX_BLOB_BYTES + 1))


def test_request_and_result_survive_the_wire():
    request = ReadRequest(seed=2**63 + 1, times_seconds=(1.0, 2.0), task="times")
    assert codec.request_from_json(codec.request_to_json(request)) == request
    result = ReadResult(
        media=MediaInfo(
            container="a\nb", codec="c", width=1, height=2, declared_duration_seconds=None, vfr=True, streams={"x": 1}
        ),
        coverage=Coverage(
            frames_scored=1, frames_decoded=2, largest_gap_seconds=0.5, full_decode=False, decoded_seconds=1.0,
            declared_seconds=2.0, complete=False, sampler="s", seed=2**63, problem="truncated",
        ),
    )  # fmt: skip
    back = codec.result_from_json(codec.result_to_json(result))
    assert back.coverage == result.coverage
    assert back.media.container == "a?b"  # a terminal never sees what a file wrote


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(["width", "rotation_degrees", "fps", "codec", "streams", "vfr"]), value=junk)
def test_no_lie_in_a_result_gets_past_the_check(field, value):
    media = {
        "container": "a", "codec": "c", "width": 1, "height": 1, "declared_duration_seconds": None,
        "decoded_duration_seconds": None, "fps": None, "rotation_degrees": 0, "vfr": None, "streams": {},
    }  # fmt: skip
    coverage = {
        "frames_scored": 1, "frames_decoded": 1, "largest_gap_seconds": 0.0, "full_decode": True,
        "decoded_seconds": 0.0, "declared_seconds": None, "complete": True, "sampler": "s", "seed": 0, "problem": None,
    }  # fmt: skip
    try:
        result = codec.result_from_json({"media": media | {field: value}, "coverage": coverage})
    except WireError:
        return
    assert isinstance(result.media.width, int)
    assert result.media.width >= 0
    assert result.media.fps is None or math.isfinite(result.media.fps)


@pytest.mark.parametrize(
    "lie",
    [
        {"complete": False, "problem": "nonsense"},
        {"complete": False, "problem": "vlm_unavailable"},
        {"complete": False, "problem": "invalid_config"},
        {"complete": True, "problem": "truncated"},
        {"complete": False, "problem": None},
        {"largest_gap_seconds": -1.0},
        {"decoded_seconds": -0.1},
    ],
)
def test_a_coverage_that_cannot_be_is_refused(lie):
    media = {
        "container": "a", "codec": "c", "width": 1, "height": 1, "declared_duration_seconds": None,
        "decoded_duration_seconds": None, "fps": None, "rotation_degrees": 0, "vfr": None, "streams": {},
    }  # fmt: skip
    honest = {
        "frames_scored": 1, "frames_decoded": 1, "largest_gap_seconds": 0.0, "full_decode": True,
        "decoded_seconds": 0.0, "declared_seconds": None, "complete": True, "sampler": "s", "seed": 0, "problem": None,
    }  # fmt: skip
    assert codec.result_from_json({"media": media, "coverage": honest}).coverage.complete
    broken = honest | {"complete": False, "problem": "truncated"}
    assert codec.result_from_json({"media": media, "coverage": broken}).coverage.problem == "truncated"
    with pytest.raises(WireError):
        codec.result_from_json({"media": media, "coverage": honest | lie})


@pytest.mark.parametrize(
    ("event", "blob"),
    [
        ({"height": 128, "width": 128, "pts_seconds": [0.0], "burst_ids": [0]}, 100),
        ({"height": 128, "width": 128, "pts_seconds": [0.0], "burst_ids": [0]}, 0),
        ({"height": 128, "width": 1000, "pts_seconds": [0.0], "burst_ids": [0]}, 128 * 1000 * 3),
        ({"height": 0, "width": 0, "pts_seconds": [], "burst_ids": []}, 0),
        ({"height": 128, "width": 128, "pts_seconds": ["0"], "burst_ids": [0]}, 128 * 128 * 3),
        ({"height": 128, "width": 128, "pts_seconds": [0.0, 1.0], "burst_ids": [0, 0]}, 128 * 128 * 3),
        ({"height": 128, "width": 128, "pts_seconds": [0.0], "burst_ids": [-1]}, 128 * 128 * 3),
    ],
)
def test_frames_that_do_not_add_up_are_refused(event, blob):
    with pytest.raises(WireError):
        checked_frames(event, bytearray(blob), 128)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_well_formed_and_answers_as_meant(machine):
    code = seccomp.program(machine, pid=4242)
    rules = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
    for index, (kind, if_true, if_false, _) in enumerate(rules):
        if kind & 7 == 5:
            assert index + 1 + max(if_true, if_false) < len(rules)
    names = (
        seccomp._X86_64 | seccomp._X86_64_SPECIAL
        if machine == "x86_64"
        else seccomp._AARCH64 | seccomp._AARCH64_SPECIAL
    )
    allow, deny = 0x7FFF0000, 0x00050001
    arch = seccomp._ARCHES[machine]

    def answer(number, *arguments):
        words = [number, arch, 0, 0] + [
            half for value in (*arguments, 0, 0, 0) for half in (value & 0xFFFFFFFF, value >> 32)
        ]
        at, loaded = 0, 0
        while True:
            kind, if_true, if_false, value = rules[at]
            if kind == 0x06:
                return value
            if kind == 0x20:
                loaded = words[value // 4]
                at += 1
                continue
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[kind]
            at += 1 + (if_true if holds else if_false)

    assert answer(names["read"]) == allow
    assert answer(names["futex"]) == allow
    assert answer(9999) == deny
    assert answer(names["clone"], 0x003D0F00) == allow  # a thread
    assert answer(names["clone"], 0x11) == deny  # a process
    assert answer(names["clone3"]) == 0x00050000 | 38
    assert answer(names["kill"], 4242) == allow
    assert answer(names["kill"], 1) == deny
    assert answer(names["prlimit64"], 0, 7, 0) == allow
    assert answer(names["prlimit64"], 0, 7, 1 << 40) == deny
    outside = {"x86_64": (41, 42, 57, 59, 2, 257, 101), "aarch64": (198, 203, 221, 56, 117)}[machine]
    assert all(answer(number) == deny for number in outside)  # socket, connect, fork, execve, open, ptrace
