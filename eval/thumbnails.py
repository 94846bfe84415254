"""A blurred picture from the middle of a video: enough to find the clip again, too little to be hurt by it."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from fast_path import dataset
from guard.errors import InputError

WIDTH_PX = 160
_BLUR_SIGMA = 5.0  # at 160 px wide: outlines stay, faces and wounds do not


def thumbnail(path: Path) -> str | None:
    """Return a blurred JPEG of the middle of a video as a `data:` URL, or None where it gives no frame."""
    row = dataset.Row(path=path, labels=(), split="", group="", sha256="", still=path.suffix.lower() in dataset.STILLS)
    try:
        middle = dataset.duration_seconds(row) / 2
        plan = dataset.BurstPlan(starts_seconds=np.array([middle]), spacing_seconds=np.array([0.0]))
        (bursts,) = dataset.read_bursts(row, [plan], frames=1, side_px=120)
    except InputError:
        return None
    image = bursts[0, 0]
    height = max(1, round(image.shape[0] * WIDTH_PX / image.shape[1]))
    small = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), _BLUR_SIGMA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(blurred, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 70])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}" if done else None
