"""What flash analysis costs beside the decoding that it needs: CPU seconds per minute of video.

    python benchmarks/flash.py [--seconds 20] [--runs 5]

A 1280x720 H.264 clip at 30 frames a second is rendered: moving noise that flashes at 2 Hz. Decoding is of every
frame, scaled to a short side of 96 px, by one thread in this process. The ratio is of analysis to decoding in the
same run; each figure is the median of its runs.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import cv2
import numpy as np

from fast_path.flash import BROADCAST, FlashSettings, analyse

FPS, SIZE, SIDE_PX = 30, (1280, 720), 96


def render(seconds: float) -> bytes:
    random = np.random.default_rng(0)
    noise = cv2.resize(
        random.integers(0, 256, (45, 160, 3), dtype=np.uint8), (2560, 720), interpolation=cv2.INTER_CUBIC
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(round(seconds * FPS)):
            lit = index * 4 // FPS % 2
            image = noise[:, index % 1280 : index % 1280 + 1280] // (1 if lit else 3)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def decode(clip: bytes) -> list[tuple[np.ndarray, float]]:
    width = round(SIZE[0] * SIDE_PX / SIZE[1])
    with av.open(io.BytesIO(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [
            (frame.reformat(width, SIDE_PX, "rgb24", interpolation="AREA", threads=1).to_ndarray(), float(frame.time))
            for frame in container.decode(video=0)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clip, minutes = render(options.seconds), options.seconds / 60
    spent: dict[str, list[float]] = {"decode": [], "wcag": [], "broadcast": []}
    for _ in range(options.runs):
        started = time.process_time()
        frames = decode(clip)
        spent["decode"].append((time.process_time() - started) / minutes)
        for name, settings in (("wcag", FlashSettings()), ("broadcast", BROADCAST)):
            started = time.process_time()
            report = analyse(frames, settings)
            spent[name].append((time.process_time() - started) / minutes)
            if report.general.peak_transitions < 4:
                raise SystemExit(f"{name} missed the flashes: {report.as_dict()}")
    median = {name: round(statistics.median(values), 3) for name, values in spent.items()}
    result = {
        "machine": "2 cores x86-64, one thread used, others at work beside",
        "clip": {"size": list(SIZE), "fps": FPS, "seconds": options.seconds},
        "side_px": SIDE_PX,
        "runs": options.runs,
        "cpu_seconds_per_minute": median,
        "ratio_to_decode": {name: round(median[name] / median["decode"], 2) for name in ("wcag", "broadcast")},
        "ms_per_frame": {name: round(median[name] / 60 / FPS * 1e3, 2) for name in ("wcag", "broadcast")},
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
