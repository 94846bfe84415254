"""The peers of `screen.py`, each in a process of its own: a path per line in, CPU seconds per line out.

    python benchmarks/screen_peers.py videomae|videomae_bf16|nudenet

Needs nothing of this project, so that a peer may live in another environment. VideoMAE-base has random weights here:
the cost is that of any weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")

Peer = Callable[[str], int]
"""Looks at one file; returns the number of frames that it scored."""


def videomae(bf16: bool = False) -> Peer:
    """16 evenly spaced frames of the whole video by decord, PIL preprocessing, one forward pass."""
    import decord
    import numpy as np
    import torch
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, logging

    logging.set_verbosity_error()
    from transformers import VideoMAEImageProcessor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig()).eval()
    model = model.to(torch.bfloat16) if bf16 else model
    processor = VideoMAEImageProcessor()

    @torch.inference_mode()
    def look(path: str) -> int:
        video = decord.VideoReader(path, num_threads=1)
        frames = video.get_batch(np.linspace(0, len(video) - 1, 16).round().astype(int).tolist()).asnumpy()
        inputs = processor(list(frames), return_tensors="pt")["pixel_values"]
        model(inputs.to(model.dtype)).logits.softmax(-1)
        return len(frames)

    return look


def nudenet() -> Peer:
    """One frame a second, read in order with OpenCV."""
    import cv2
    from nudenet import NudeDetector

    cv2.setNumThreads(1)
    detector = NudeDetector()

    def look(path: str) -> int:
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        number = scored = 0
        while capture.grab():
            if number >= scored * rate:
                done, image = capture.retrieve()
                if done:
                    detector.detect(image)
                    scored += 1
            number += 1
        capture.release()
        return scored

    return look


PEERS: dict[str, Callable[[], Peer]] = {
    "videomae": videomae,
    "videomae_bf16": lambda: videomae(bf16=True),
    "nudenet": nudenet,
}


def main() -> None:
    # one core: a thread pool that spins while it waits would be counted as work
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    look = PEERS[sys.argv[1]]()
    print(json.dumps({"ready": sys.argv[1]}), file=answers, flush=True)
    for line in sys.stdin:
        before = time.process_time()
        frames = look(line.rstrip("\n"))
        print(json.dumps({"cpu_seconds": time.process_time() - before, "frames": frames}), file=answers, flush=True)


if __name__ == "__main__":
    main()
