"""The sandbox under attack: readers that hang, crash, hog memory or reach out, run for real in the worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from guard.errors import (
    BackendError,
    DecoderCrashed,
    DecoderMemory,
    DecodeTimeout,
    InputChanged,
    NoVideoStream,
    TooManyFrames,
    Undecodable,
)
from guard.interfaces import Decoder, SamplingNeeds
from guard.limits import Limits
from guard.video.sampling import SamplingConfig
from guard.video.sandbox import SandboxedDecoder, sandbox_report
from guard.video.source import open_video
from tests import media

ROOT = Path(__file__).resolve().parents[1]

HOSTILE_READER = '''
    """A reader that does what the first line of its input says, once the process is locked."""
    import os, signal, socket, subprocess, time, ctypes, threading, builtins
    from guard.types import Coverage, MediaInfo
    from guard.video.reader import ReadResult
    import numpy as np
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        pass

    def build(config):
        return Hostile()

    def tiny():
        return Hostile()

    def attempt(action):
        try:
            action()
        except OSError as error:
            return f"refused: {error.errno}"
        except ValueError:  # how the standard library reports EPERM from setrlimit
            return "refused: 1"
        return "allowed"

    class Hostile:
        name = "hostile"

        def read(self, file, request, sink):
            order = file.readline().decode().strip()
            outcome = getattr(self, order)(sink) if hasattr(self, order) else attempt(lambda: eval(order))
            text = str(outcome)[:100]
            media = MediaInfo(container=text, codec="x", width=1, height=1, declared_duration_seconds=None)
            side = request.needs.side_px
            sink.frame(np.zeros((side, side, 3), np.uint8), 0.0, 0)
            return ReadResult(media=media, coverage=Coverage(frames_scored=1, frames_decoded=1, largest_gap_seconds=0.0,
                full_decode=True, decoded_seconds=0.0, declared_seconds=None, complete=True, sampler="x", seed=0))

        def hang(self, sink):
            while True:
                time.sleep(0.01)

        def spin_with_heartbeats(self, sink):
            count = 0
            while True:
                count += 1
                try:
                    sink.tick(count, 0.0)
                except Exception:
                    pass

        def beat_without_progress(self, sink):
            while True:
                time.sleep(0.05)
                sink.tick(0, 0.0)

        def hog(self, sink):
            kept = []
            while True:
                kept.append(np.ones(8 << 20, np.uint8))

        def abort(self, sink):
            os.abort()

        def segfault(self, sink):
            ctypes.string_at(0)

        def lie_about_frames(self, sink):
            sink.frame(np.zeros((4000, 4000, 3), np.uint8), 0.0, 0)

        def unordered(self, sink):
            sink.frame(np.zeros((128, 128, 3), np.uint8), 5.0, 0)

        def raw_garbage(self, sink):
            sink._channel.sendall(b"\\\\xff" * 64)
            time.sleep(30)

        def many_frames(self, sink):
            for index in range(400):
                sink.frame(np.zeros((128, 128, 3), np.uint8), index / 10 - 100, 0)

        def pid(self, sink):
            return os.getpid()
'''


def install_hostile_reader(folder, patch):
    """Register the hostile reader the way an outside package does: by an entry point."""
    (folder / "hostile_reader.py").write_text(textwrap.dedent(HOSTILE_READER))
    info = folder / "hostile_reader-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[video_guard.reader]\nhostile = hostile_reader\n")
    patch.syspath_prepend(str(folder))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Return a function that gives a decoder of the hostile reader with its own limits."""
    install_hostile_reader(tmp_path, monkeypatch)
    made = []

    def make(**limits):
        defaults = {"wall_seconds": 20.0, "cpu_seconds": 20.0, "stall_seconds": 10.0}
        decoder = SandboxedDecoder(reader="hostile", limits=Limits(**(defaults | limits)))
        made.append(decoder)
        return decoder

    yield make
    for decoder in made:
        decoder.close()


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """One decoder of the hostile reader for all tests that leave it alive."""
    with pytest.MonkeyPatch.context() as patch:
        install_hostile_reader(tmp_path_factory.mktemp("reader"), patch)
        with SandboxedDecoder(reader="hostile") as decoder:
            yield decoder


def order(decoder, what: str):
    return decoder.decode(open_video(what.encode() + b"\n\xff\x00", name=what), SamplingNeeds())


@pytest.fixture(scope="module")
def decoder():
    with SandboxedDecoder(workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def clip():
    return media.render(frames=90)


def test_decodes_a_path_and_bytes_alike(decoder, clip, tmp_path):
    assert isinstance(decoder, Decoder)
    needs = SamplingNeeds(burst_frames=2)
    from_bytes = decoder.decode(open_video(clip), needs)
    from_path = decoder.decode(open_video(media.write(tmp_path / "a.mp4", clip)), needs)
    np.testing.assert_array_equal(from_bytes.frames.images, from_path.frames.images)
    np.testing.assert_array_equal(from_bytes.frames.pts_seconds, from_path.frames.pts_seconds)
    assert from_bytes.video.media is not None
    assert from_bytes.video.media.codec == "h264"
    assert 0 < from_bytes.cpu_seconds < 10
    numbers = [media.frame_number(image) for image in from_bytes.frames.images]
    assert numbers == [round(seconds * 30) for seconds in from_bytes.frames.pts_seconds]


def test_probe_and_frames_at(decoder, clip):
    video = open_video(clip)
    facts = decoder.probe(video)
    assert (facts.width, facts.height, facts.decoded_duration_seconds) == (192, 128, pytest.approx(3.0))
    frames = decoder.frames_at(video, [2.0, 1.0], side_px=64)
    assert [media.frame_number(image) for image in frames.images] == [30, 60]
    assert frames.images.shape[1:] == (64, 96, 3)


class Chunks:
    """A sink that keeps what it is given, and can stop half way."""

    def __init__(self, stop_after=None):
        self.chunks, self.restarts, self._stop_after = [], 0, stop_after

    def take(self, frames):
        self.chunks.append(frames)
        if len(self.chunks) == self._stop_after:
            raise InterruptedError("enough")

    def restart(self):
        self.chunks, self.restarts = [], self.restarts + 1


def test_feed_gives_what_decode_gives_in_chunks_that_cut_no_burst(decoder):
    clip = open_video(media.render(frames=250, fps=25))
    needs = SamplingNeeds(side_px=256, burst_frames=3, burst_spacing_seconds=0.04, min_bursts=80)
    sink = Chunks()
    fed = decoder.feed(clip, needs, sink)
    whole = decoder.decode(clip, needs)
    assert len(sink.chunks) > 1
    assert np.array_equal(np.concatenate([c.images for c in sink.chunks]), whole.frames.images)
    assert np.array_equal(np.concatenate([c.pts_seconds for c in sink.chunks]), whole.frames.pts_seconds)
    assert (fed.coverage, fed.video) == (whole.frames.coverage, whole.video)
    lengths = [n for c in sink.chunks for n in np.bincount(c.burst_ids)]
    assert lengths == list(np.bincount(whole.frames.burst_ids))
    assert [c.coverage.complete for c in sink.chunks] == [False] * (len(sink.chunks) - 1) + [True]


def test_feed_gives_every_frame_of_a_stream_larger_than_a_chunk(decoder):
    sink = Chunks()
    fed = decoder.feed(open_video(media.render(frames=250, fps=25)), SamplingNeeds(side_px=256, every_frame=True), sink)
    assert len(sink.chunks) > 1
    assert [media.frame_number(image) for c in sink.chunks for image in c.images] == list(range(250))
    assert fed.coverage.full_decode


def test_a_sink_that_raises_frees_its_worker():
    with SandboxedDecoder(workers=1) as decoder:
        video = open_video(media.render(frames=250))
        with pytest.raises(InterruptedError):
            decoder.feed(video, SamplingNeeds(side_px=256, every_frame=True), Chunks(stop_after=1))
        assert decoder.probe(video).width == 192


def test_too_many_frames_is_an_error_with_a_way_out(clip):
    with SandboxedDecoder(limits=Limits(max_result_bytes=100_000)) as decoder:
        with pytest.raises(TooManyFrames) as caught:
            decoder.decode(open_video(clip), SamplingNeeds(every_frame=True))
        assert "feed" in caught.value.hint


def test_several_threads_at_once_get_their_own_video(decoder):
    clips = [
        media.render(frames=20, draw=lambda number, base=base: media.picture(base + number))
        for base in (0, 50, 100, 150)
    ]
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda data: decoder.decode(open_video(data), SamplingNeeds(every_frame=True)), clips)
    firsts = [media.frame_number(result.frames.images[0]) for result in results]
    assert firsts == [0, 50, 100, 150]


def test_errors_of_the_file_are_typed_and_leave_the_worker_alive(decoder, clip):
    with pytest.raises(NoVideoStream):
        decoder.decode(open_video(media.audio_only()), SamplingNeeds())
    with pytest.raises(Undecodable):
        decoder.decode(open_video(clip[:200]), SamplingNeeds())
    assert decoder.probe(open_video(clip)).height == 128


def test_a_file_replaced_after_hashing_is_refused(decoder, clip, tmp_path):
    path = media.write(tmp_path / "a.mp4", clip)
    video = open_video(path)
    media.write(path, media.render(frames=10))
    with pytest.raises(InputChanged):
        decoder.decode(video, SamplingNeeds())


def test_a_touched_file_with_the_same_bytes_is_fine(decoder, clip, tmp_path):
    path = media.write(tmp_path / "a.mp4", clip)
    video = open_video(path)
    media.write(path, clip)
    assert decoder.probe(video).width == 192


@pytest.mark.parametrize("what", ["hang", "beat_without_progress"])
def test_no_progress_is_a_timeout_and_the_next_input_works(hostile, what):
    decoder = hostile(stall_seconds=0.6)
    started = time.monotonic()
    with pytest.raises(DecodeTimeout, match="without progress"):
        order(decoder, what)
    assert time.monotonic() - started < 8
    assert order(decoder, "pid").frames.images.shape[0] == 1


def test_endless_work_with_heartbeats_meets_the_clock(hostile):
    decoder = hostile(wall_seconds=1.0)
    with pytest.raises(DecodeTimeout):
        order(decoder, "spin_with_heartbeats")
    decoder = hostile(cpu_seconds=0.5)
    with pytest.raises(DecodeTimeout, match="CPU"):
        order(decoder, "spin_with_heartbeats")


def test_memory_hog_is_a_typed_error(hostile):
    decoder = hostile(address_space_bytes=700 << 20)
    with pytest.raises(DecoderMemory):
        order(decoder, "hog")
    assert int(order(decoder, "pid").video.media.container) > 0


@pytest.mark.parametrize(("what", "name"), [("abort", "SIGABRT"), ("segfault", "SIGSEGV")])
def test_crash_costs_one_input(hostile, what, name):
    decoder = hostile()
    with pytest.raises(DecoderCrashed, match=name):
        order(decoder, what)
    assert order(decoder, "pid").frames.images.shape[0] == 1


@pytest.mark.parametrize("what", ["lie_about_frames", "unordered", "raw_garbage"])
def test_a_worker_that_lies_is_stopped(hostile, what):
    decoder = hostile()
    with pytest.raises(DecoderCrashed, match="protocol"):
        order(decoder, what)
    assert order(decoder, "pid").frames.images.shape[0] == 1


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="no filter for this machine")
@pytest.mark.parametrize(
    "action",
    [
        "socket.socket()",
        "socket.socketpair()",
        "os.open('/etc/passwd', os.O_RDONLY)",
        "os.open('/tmp/guard-escape', os.O_WRONLY | os.O_CREAT)",
        "os.fork()",
        "subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.unlink('/tmp/guard-escape')",
        "os.memfd_create('x')",
        "os.pipe()",
        "__import__('resource').setrlimit(0, (1, 1))",
    ],
)
def test_reaching_out_is_refused_inside_the_worker(locked, action):
    assert order(locked, action).video.media.container.startswith("refused: 1")


def test_threads_and_memory_still_work_inside_the_worker(locked):
    assert order(locked, "threading.Thread(target=print).start()").video.media.container == "allowed"
    assert order(locked, "np.ones(50_000_000, np.uint8)").video.media.container == "allowed"


def test_report_says_what_is_on():
    report = sandbox_report()
    assert set(report) == {"namespaces", "limits", "parent_death", "seccomp", "no_new_privs"}
    assert all(state == "on" or state.startswith("off: ") for state in report.values())
    assert report["limits"] == report["parent_death"] == "on"


def test_workers_die_with_a_killed_parent(tmp_path, clip):
    path = media.write(tmp_path / "a.mp4", clip)
    script = f"""
import time
from pathlib import Path
from guard.interfaces import SamplingNeeds
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video
decoder = SandboxedDecoder()
decoder.decode(open_video(Path({str(path)!r})), SamplingNeeds())
print(next(iter(decoder._pool._all)).process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived its parent")


def test_a_worker_outlives_the_thread_that_asked_for_it(clip):
    with SandboxedDecoder() as decoder:
        thread = threading.Thread(target=decoder.sandbox_report)
        thread.start()
        thread.join()
        time.sleep(0.2)
        first = next(iter(decoder._pool._all))
        decoder.decode(open_video(clip), SamplingNeeds())
        assert set(decoder._pool._all) == {first}


def test_close_stops_the_workers_and_says_so(clip):
    decoder = SandboxedDecoder()
    decoder.sandbox_report()
    pid = next(iter(decoder._pool._all)).process.pid
    decoder.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(BackendError, match="closed"):
        decoder.decode(open_video(clip), SamplingNeeds())


def test_stopping_a_job_for_its_clock_cannot_hit_the_next_one(clip, monkeypatch):
    """The watcher finds a job overdue; before it stops the process, the job ends and another input takes its place."""
    with SandboxedDecoder() as decoder:
        decoder.sandbox_report()
        worker = next(iter(decoder._pool._all))
        worker.begin(decoder.limits)
        worker._began -= 1e6
        events, real = [], worker.process.kill

        def swap():
            worker.end()
            worker.begin(decoder.limits)
            events.append("next job")

        def kill():
            thread = threading.Thread(target=swap)
            thread.start()
            thread.join(timeout=0.3)
            events.append("stopped")
            real()

        monkeypatch.setattr(worker.process, "kill", kill)
        worker.stop_if_overdue()
        deadline = time.monotonic() + 5
        while len(events) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.undo()
        assert events == ["stopped", "next job"]
        assert worker.killed_for == "wall"


def test_a_pool_that_closes_while_a_worker_is_asked_for_starts_none(monkeypatch):
    decoder = SandboxedDecoder()
    pool, start = decoder._pool, decoder._pool._start

    def late():
        pool.close()
        return start()

    monkeypatch.setattr(pool, "_start", late)
    with pytest.raises(BackendError, match="closed"):
        pool.borrow()
    assert (pool._all, pool._keeper) == (set(), None)


def test_closing_while_workers_start_leaves_none_and_nobody_waiting():
    before = set(psutil.Process().children(recursive=True))
    for pause in (0.0, 0.05, 0.3):
        decoder = SandboxedDecoder(workers=3)
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(decoder.sandbox_report) for _ in range(3)]
            time.sleep(pause)
            decoder.close()
            for one in asked:
                assert isinstance(one.exception(timeout=20), BackendError | type(None))
        assert set(psutil.Process().children(recursive=True)) <= before


def test_a_worker_holds_no_secret_of_its_parent(locked, monkeypatch):
    pid = int(order(locked, "pid").video.media.container)
    names = {
        line.partition(b"=")[0].decode() for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if line
    }
    assert "HOME" not in names
    assert not any("KEY" in name or "TOKEN" in name for name in names)


def test_sampling_is_the_same_for_the_same_seed_and_content(clip):
    runs = []
    for seed in (1, 1, 2):
        with SandboxedDecoder(sampling=SamplingConfig(seed=seed)) as decoder:
            runs.append(decoder.decode(open_video(clip), SamplingNeeds()).frames.pts_seconds.tolist())
    assert runs[0] == runs[1] != runs[2]
