"""What screening costs: CPU seconds per minute of video, all processes counted, beside decoding alone and two peers.

    python benchmarks/screen.py --data DIR [--peer-python nudenet=PYTHON] [--clips 20] [--runs 3]

Ways, in turns on the same clips: the sampler alone, `tiny` end to end, VideoMAE-base on 16 evenly spaced frames of the
video (decord, transformers; float32 and bfloat16), and NudeNet on one frame a second. Clips: real ones of the split,
and one rendered long one of 1280x720 whose content repeats. Each figure is the median of its runs, each ratio that of
ratios within a run. NudeNet is AGPL-3.0 and no dependency: `--peer-python nudenet=PYTHON` names an interpreter that has
it; without one that peer is left out.

Growth: the long video at 10 s, 1, 10 and 60 minutes, CPU and memory of both processes, noted at chunks of frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import common
import psutil
from common import ROOT, Sink, kept_file, tell

from guard.interfaces import Detector
from guard.limits import Limits
from guard.types import Frames
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video

Way = Callable[[Path], tuple[float, int]]
"""File to CPU seconds and frames scored."""
LIMITS = Limits(cpu_seconds=3600, wall_seconds=14400)
OWN = ("sampler", "tiny")
AIMS = {"tiny_to_its_decode": 1.3, "videomae_to_tiny": 8.0}


class Nowhere:
    """Counts frames."""

    def __init__(self) -> None:
        self.frames = 0

    def take(self, frames: Frames) -> None:
        self.frames += len(frames.pts_seconds)

    def restart(self) -> None:
        self.frames = 0


def sampling(decoder: SandboxedDecoder, detector: Detector) -> Way:
    def run(path: Path) -> tuple[float, int]:
        before = time.process_time()
        sink = Nowhere()
        fed = decoder.feed(open_video(path, limits=LIMITS), detector.needs, sink)
        return time.process_time() - before + fed.cpu_seconds, sink.frames

    return run


def screening(decoder: SandboxedDecoder, detector: Detector) -> Way:
    def run(path: Path) -> tuple[float, int]:
        before = time.process_time()
        sink = Sink(detector)
        fed = decoder.feed(open_video(path, limits=LIMITS), detector.needs, sink)
        sink.session.finish(fed.coverage)
        return time.process_time() - before + fed.cpu_seconds, fed.coverage.frames_scored

    return run


class PeerProcess:
    """A peer that waits for paths."""

    def __init__(self, python: str, name: str) -> None:
        command = [python, str(ROOT / "benchmarks" / "screen_peers.py"), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __call__(self, path: Path) -> tuple[float, int]:
        assert self._process.stdin is not None
        print(path, file=self._process.stdin, flush=True)
        answer = self._answer()
        return float(answer["cpu_seconds"]), int(answer["frames"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"a peer ended with {self._process.returncode}; its messages are above")
        return json.loads(line)


def seconds_of(path: Path) -> float:
    with av.open(str(path), metadata_errors="ignore") as container:
        return float(container.duration or 0) / 1e6


def measure(ways: dict[str, Way], paths: Sequence[Path], runs: int, peer_runs: int) -> dict[str, Any]:
    """Return figures by way. Ways take turns on each clip, so that a busy machine slows all alike.

    Peers cost ten times as much and take part in the first `peer_runs` runs only.
    """
    minutes = sum(map(seconds_of, paths)) / 60
    for way in ways.values():
        way(paths[0])  # caches, lazy imports
    totals: dict[str, list[float]] = {name: [] for name in ways}
    frames = dict.fromkeys(ways, 0)
    for run in range(runs):
        spent: dict[str, float] = {}
        for path in paths:
            for name, way in ways.items():
                if run >= peer_runs and name not in OWN:
                    continue
                seconds, count = way(path)
                spent[name] = spent.get(name, 0.0) + seconds
                frames[name] += count
        for name, value in spent.items():
            totals[name].append(value / minutes)
        tell(f"run {run + 1}/{runs}: " + ", ".join(f"{n} {v[-1]:.3f}" for n, v in totals.items()))
    result: dict[str, Any] = {"clips": len(paths), "minutes": minutes, "runs": runs}
    for name, values in totals.items():
        result[name] = {
            "cpu_seconds_per_minute": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "runs": len(values),
            "frames_per_minute": frames[name] / len(values) / minutes,
            "ratio_to_tiny": ratio(values, totals["tiny"]),
            "ratio_to_sampler": ratio(values, totals["sampler"]),
        }
    return result


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=False))  # a peer has fewer runs


# A long video


def long_video(cache: Path, seconds: float, size: tuple[int, int], unit_seconds: float) -> Path:
    """Return a video whose first `unit_seconds` repeat; the packets are copied, so that an hour takes no encoder."""
    import decode  # this folder's: it renders panning, noise and cuts with the encoder's default key frames

    def render(target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if size == (1280, 720):
            decode.render_long(target, unit_seconds)
            return
        whole = kept_file(cache, ["unit-1", unit_seconds, (1280, 720)], lambda t: decode.render_long(t, unit_seconds))
        import cv2

        common.encode((cv2.resize(image, size) for _, image in common.read_frames(whole)), target, 30)

    unit = kept_file(cache, ["unit-1", unit_seconds, size], render)
    return kept_file(cache, ["long-1", unit_seconds, size, seconds], lambda target: repeated(unit, seconds, target))


def repeated(unit: Path, seconds: float, target: Path) -> None:
    """Copy the packets of `unit` again and again, up to `seconds`."""
    with av.open(str(unit)) as source, av.open(str(target), "w", format="mp4") as out:
        origin = source.streams.video[0]
        base = origin.time_base
        assert base is not None
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe, p.duration) for p in source.demux(origin) if p.size]
        first = packets[0][1]
        length = max(pts for _, pts, *_ in packets) - first + packets[0][4]
        stream = out.add_stream_from_template(origin)
        for shift in range(0, int(seconds / base) + 1, length):
            for data, pts, dts, key, duration in packets:
                if (pts - first + shift) * base >= seconds:
                    continue
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + shift, dts + shift, duration
                packet.time_base, packet.stream, packet.is_keyframe = base, stream, key
                out.mux(packet)


class Checkpoints(Sink):
    """Scores, and notes time and memory with each chunk of frames, at most once a minute of video."""

    def __init__(self, detector: Detector, decoder_process: psutil.Process) -> None:
        self.worker = decoder_process
        self.began = self.cpu()
        self.minutes: list[dict[str, float]] = []
        super().__init__(detector)

    def take(self, frames: Frames) -> None:
        super().take(frames)
        minute = float(frames.pts_seconds[-1]) / 60
        if not self.minutes or minute >= self.minutes[-1]["minute"] + 1:
            self.minutes.append({"minute": minute, "cpu_seconds": self.cpu() - self.began, **self.memory()})

    def cpu(self) -> float:
        used = self.worker.cpu_times()
        return time.process_time() + used.user + used.system

    def memory(self) -> dict[str, float]:
        return {
            "main_rss_mib": psutil.Process().memory_info().rss / 2**20,
            "worker_rss_mib": self.worker.memory_info().rss / 2**20,
        }


def growth(detector: Detector, files: dict[float, Path]) -> dict[str, Any]:
    """Return cost and memory by length; each length has a fresh decoder process, the main process stays."""
    result: dict[str, Any] = {}
    for seconds, path in files.items():
        with SandboxedDecoder(limits=LIMITS) as decoder:
            known = {child.pid for child in psutil.Process().children(recursive=True)}
            decoder.sandbox_report()  # starts the worker
            fresh = [c for c in psutil.Process().children(recursive=True) if c.pid not in known]
            worker = max(fresh or psutil.Process().children(recursive=True), key=lambda c: c.memory_info().rss)
            sink = Checkpoints(detector, worker)
            fed = decoder.feed(open_video(path, limits=LIMITS), detector.needs, sink)
            sink.session.finish(fed.coverage)
            result[f"{seconds:g}"] = {
                "cpu_seconds": sink.cpu() - sink.began,
                "cpu_seconds_per_minute": (sink.cpu() - sink.began) / (seconds / 60),
                "complete": fed.coverage.complete,
                "bursts": fed.coverage.frames_scored // detector.needs.burst_frames,
                "largest_gap_seconds": fed.coverage.largest_gap_seconds,
                "peak_main_rss_mib": peak_mib(psutil.Process().pid),
                "peak_worker_rss_mib": peak_mib(worker.pid),
                "checkpoints": sink.minutes,
            }
        tell(f"growth {seconds:g} s: {result[f'{seconds:g}']['cpu_seconds']:.1f} CPU s")
    return result


def peak_mib(pid: int) -> float:
    """Return the highest resident memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def plot(options: argparse.Namespace, grown: dict[str, Any]) -> None:
    points = max(grown.values(), key=lambda entry: len(entry["checkpoints"]))["checkpoints"]
    if len(points) < 2:
        return
    minutes = [p["minute"] for p in points]
    lines = {
        name: (minutes, [p[key] for p in points])
        for name, key in (("screening", "main_rss_mib"), ("decoder", "worker_rss_mib"))
    }
    common.line_chart(
        options.plots / "screen_memory.svg",
        "Resident memory while one video is screened",
        ("minute of the video", "MiB"),
        lines,
    )
    cost = {"both processes": (minutes, [p["cpu_seconds"] for p in points])}
    common.line_chart(
        options.plots / "screen_cost.svg",
        "CPU time while one video is screened",
        ("minute of the video", "CPU seconds"),
        cost,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, "screen")
    parser.set_defaults(clips=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument("--long-seconds", type=float, default=300, help="length of the long clip in the comparison")
    parser.add_argument("--growth-seconds", type=float, nargs="*", default=[10, 60, 600, 3600])
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720], help="of the long clip in the comparison")
    parser.add_argument("--growth-size", type=int, nargs=2, default=[640, 360])
    parser.add_argument("--unit-seconds", type=float, default=60, help="rendered part that repeats")
    parser.add_argument("--peers", nargs="*", default=["videomae", "videomae_bf16", "nudenet"])
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PYTHON")
    options = parser.parse_args(argv)
    detector = common.build_detector(options)
    pythons = dict(entry.split("=", 1) for entry in options.peer_python)
    names = [n for n in options.peers if n != "nudenet" or n in pythons]
    size = tuple(options.size)
    long = long_video(options.cache, options.long_seconds, size, options.unit_seconds)
    files = {
        s: long_video(options.cache, s, tuple(options.growth_size), options.unit_seconds)
        for s in options.growth_seconds
    }
    grown = growth(detector, files) if files else {}
    peers = {name: PeerProcess(pythons.get(name, sys.executable), name) for name in names}
    try:
        with SandboxedDecoder(limits=LIMITS) as decoder:
            ways: dict[str, Way] = {
                "sampler": sampling(decoder, detector),
                "tiny": screening(decoder, detector),
                **peers,
            }
            real = measure(ways, [row.path for row in common.rows_of(options)], options.runs, options.peer_runs)
            one = measure(ways, [long], options.runs, options.peer_runs)
    finally:
        for peer in peers.values():
            peer.close()
    result = {
        **common.about(detector),
        "real_clips": real,
        f"rendered_{size[0]}x{size[1]}": one,
        "growth_by_seconds": grown,
        "aims": {
            where: {
                "tiny_to_its_decode": {
                    "aim_at_most": AIMS["tiny_to_its_decode"],
                    "measured": made["tiny"]["ratio_to_sampler"],
                },
                **(
                    {
                        "videomae_to_tiny": {
                            "aim_at_least": AIMS["videomae_to_tiny"],
                            "measured": made["videomae"]["ratio_to_tiny"],
                        }
                    }
                    if "videomae" in made
                    else {}
                ),
            }
            for where, made in (("real_clips", real), ("rendered", one))
        },
    }
    common.save(options.out, result)
    if grown:
        plot(options, grown)


if __name__ == "__main__":
    main()
