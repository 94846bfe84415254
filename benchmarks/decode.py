"""What decoding costs: CPU seconds per minute of video, by way of decoding.

    python benchmarks/decode.py --data DIR [--clips 24] [--runs 3] [--long-seconds 600]

Ways: key frames only, the sampler at gaps of 2, 1 and 0.5 s (one frame and bursts of four), every frame decoded and
scaled, and 16 evenly spaced frames with decord and OpenCV. All frames are scaled to a short side of 128 px, by one
thread, in this process (the sandbox adds the copying of frames, some 20 us each). Ratios are against every frame in the
same run; the figure of a way is the median of its runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import cv2
import numpy as np

from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.video.reader import ReadRequest, output_size
from guard.video.readers import pyav
from guard.video.sampling import SamplingConfig

SIDE_PX = 128
Way: TypeAlias = Callable[[Path], tuple[int, float]]
LIMITS = Limits(cpu_seconds=3600, wall_seconds=7200)


class Nowhere:
    """Counts frames."""

    def __init__(self) -> None:
        self.frames = 0

    def frame(self, image: np.ndarray, pts_seconds: float, burst: int) -> None:
        self.frames += 1

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        pass

    def restart(self) -> None:
        self.frames = 0


def sampler(gap: float, burst: int = 1, mode: str = "jitter", every: bool = False, skip: bool = True) -> Way:
    reader = pyav.build(pyav.Config(skip_unneeded=skip))
    needs = SamplingNeeds(side_px=SIDE_PX, burst_frames=burst, every_frame=every)
    request = ReadRequest(needs=needs, sampling=SamplingConfig(max_gap_seconds=gap, mode=mode), limits=LIMITS, seed=1)

    def run(path: Path) -> tuple[int, float]:
        sink = Nowhere()
        with path.open("rb", buffering=0) as file:
            result = reader.read(file, request, sink)
        return sink.frames, result.coverage.largest_gap_seconds

    return run


def key_frames(path: Path) -> tuple[int, float]:
    frames, times = 0, []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            width, height = output_size(frame.width, frame.height, SIDE_PX)
            frame.reformat(width, height, "rgb24", interpolation="AREA", threads=1).to_ndarray()
            frames += 1
            times.append(frame.time)
        end = float((stream.duration or 0) * stream.time_base)
    edges = [0.0, *times, max(end, times[-1])]
    return frames, float(np.max(np.diff(edges)))


def decord_uniform(path: Path) -> tuple[int, float]:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    frames = video.get_batch(np.linspace(0, len(video) - 1, 16).astype(int).tolist()).asnumpy()
    _resize(frames)
    return len(frames), len(video) / video.get_avg_fps() / 15


def opencv_uniform(path: Path) -> tuple[int, float]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count, frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), []
    for index in np.linspace(0, count - 1, 16).astype(int).tolist():
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        done, image = capture.read()
        if done:
            frames.append(image)
    seconds = count / max(capture.get(cv2.CAP_PROP_FPS), 1e-6)
    capture.release()
    _resize(frames)
    return len(frames), seconds / 15


def _resize(frames: Iterable[np.ndarray]) -> None:
    for image in frames:
        cv2.resize(image, output_size(image.shape[1], image.shape[0], SIDE_PX), interpolation=cv2.INTER_AREA)


WAYS: dict[str, Callable[[], Way]] = {
    "every_frame": lambda: sampler(2.0, every=True),
    "sampler_gap_2.0": lambda: sampler(2.0),
    "sampler_gap_2.0_bursts_of_4": lambda: sampler(2.0, burst=4),
    "sampler_gap_1.0": lambda: sampler(1.0),
    "sampler_gap_0.5": lambda: sampler(0.5),
    "sampler_gap_2.0_keyframe_mode": lambda: sampler(2.0, mode="keyframe"),
    "sampler_gap_2.0_no_skipping": lambda: sampler(2.0, skip=False),
    "key_frames_only": lambda: key_frames,
    "decord_uniform_16": lambda: decord_uniform,
    "opencv_uniform_16": lambda: opencv_uniform,
}


def render_long(path: Path, seconds: float, fps: int = 30) -> None:
    """Render 1280x720 H.264 as x264 does by default: a key frame every 250, three B-frames, panning, noise and cuts."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, (8, 720, 1280, 3)).astype(np.int8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "fast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        texture = _texture(rng)
        for index in range(int(seconds * fps)):
            if index and index % (17 * fps) == 0:
                texture = _texture(rng)
            now = index / fps
            x, y = int(600 + 500 * np.sin(now / 5)), int(300 + 250 * np.cos(now / 7))
            image = texture[y : y + 720, x : x + 1280].copy()
            for disc in range(4):
                centre = (int(640 * (1 + 0.8 * np.sin(now + disc))), int(360 * (1 + 0.8 * np.cos(0.7 * now + disc))))
                cv2.circle(image, centre, 40 + 20 * disc, (60 * disc, 255 - 50 * disc, 128), -1)
            image = np.clip(image.astype(np.int16) + noise[index % 8], 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


def _texture(rng: np.random.Generator) -> np.ndarray:
    total = np.zeros((1400, 2600, 3), np.float32)
    for size in (8, 32, 128, 512):
        small = rng.normal(0, 1, (1400 // size + 2, 2600 // size + 2, 3)).astype(np.float32)
        total += cv2.resize(small, (2600, 1400), interpolation=cv2.INTER_CUBIC) * size**0.5
    total -= total.min()
    return (total / total.max() * 255).astype(np.uint8)


def seconds_of(path: Path) -> float:
    with av.open(str(path), metadata_errors="ignore") as container:
        return container.duration / 1e6


def minutes_of(paths: list[Path]) -> float:
    return round(sum(map(seconds_of, paths)) / 60, 2)


def measure(paths: list[Path], runs: int) -> dict[str, dict[str, float]]:
    """Return figures per way. Ways take turns within a run, so that a busy machine slows all alike."""
    minutes = sum(seconds_of(path) for path in paths) / 60
    ways = {name: make() for name, make in WAYS.items()}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    frames = dict.fromkeys(ways, 0)
    gap = dict.fromkeys(ways, 0.0)
    for _ in range(runs):
        spent, frames = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
        for path in paths:
            for name, way in ways.items():
                before = time.process_time()
                count, widest = way(path)
                spent[name] += time.process_time() - before
                frames[name] += count
                gap[name] = max(gap[name], widest)
        for name, value in spent.items():
            cpu[name].append(value / minutes)
    ratios = {
        name: statistics.median(a / b for a, b in zip(cpu[name], cpu["every_frame"], strict=True)) for name in ways
    }
    return {
        name: {
            "cpu_seconds_per_minute": round(statistics.median(cpu[name]), 4),
            "ratio_to_every_frame": round(ratios[name], 4),
            "frames_per_minute": round(frames[name] / minutes, 1),
            "largest_gap_seconds": round(gap[name], 2),
        }
        for name in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of real clips, searched recursively for .mp4")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--long", type=Path, help="a rendered file to use again; made if it does not exist")
    parser.add_argument("--long-seconds", type=float, default=600)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    every = sorted(options.data.rglob("*.mp4"))
    clips = every[:: max(len(every) // options.clips, 1)][: options.clips]
    long_file = options.long or Path(tempfile.gettempdir()) / f"guard-decode-{options.long_seconds:.0f}.mp4"
    if not long_file.exists():
        render_long(long_file, options.long_seconds)
    result = {
        "machine": f"{os.cpu_count()} cores {platform.machine()}, one thread used, others at work beside",
        "libraries": {"av": av.__version__, "opencv": cv2.__version__},
        "side_px": SIDE_PX,
        "runs": options.runs,
        "real_clips": {
            "count": len(clips),
            "minutes": round(sum(map(seconds_of, clips)) / 60, 2),
            **measure(clips, options.runs),
        },
        "rendered_720p_gop_250": {
            "minutes": round(seconds_of(long_file) / 60, 2),
            **measure([long_file], options.runs),
        },
        "bound": (
            "Reference frames between a key frame and the sample after it must be decoded: with a key frame"
            " every 8.3 s and a gap of 2 s about nine tenths of all reference frames are, and they are two"
            " thirds of all frames. The real clips last some 5 s: there the least number of places (8) sets"
            " the density, not the gap, and opening and reading the file adds some 5 ms each."
        ),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
