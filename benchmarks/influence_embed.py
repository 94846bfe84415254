"""Embed the clips of a manifest for the influence benchmarks: one row per window of about four seconds.

Usage: python benchmarks/influence_embed.py MANIFEST OUT.npz [untrained]
The shipped encoder was trained on labels of these very training clips, which flatters anything that looks for wrong
ones; `untrained` takes random weights of the same network instead, and the hand-made motion maps below it speak for
themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from fast_path import dataset
from guard import plugins
from guard.errors import InputError

torch.set_num_threads(1)
WINDOW_SECONDS = 4.0


def main(manifest: Path, out: Path, untrained: bool) -> None:
    encoder = plugins.load("encoder", "tiny", **({"untrained_seed": 0} if untrained else {}))
    rows = [r for r in dataset.read_manifest(manifest) if r.split in ("train", "val") and not r.still]
    bursts_of: dict[str, list] = {name: [] for name in ("burst_vectors", "burst_seconds", "burst_clip")}
    found: dict[str, list] = {name: [] for name in ("ids", "embeddings", "labels", "groups", "splits", "clips", "hand")}
    for number, row in enumerate(rows):
        try:
            length = dataset.duration_seconds(row)
            plan = dataset.even_plan(
                length, frames=encoder.clip_frames, spacing=encoder.clip_spacing_seconds, min_bursts=4, gap=1.0
            )
            (bursts,) = dataset.read_bursts(row, [plan], frames=encoder.clip_frames, side_px=encoder.input_side_px)
        except InputError as error:
            print("left out", row.path.name, error.code)
            continue
        vectors = encoder.embed(bursts)
        maps = encoder.prepare(bursts).astype(np.float32)
        hand = np.concatenate([maps.mean(axis=(2, 3)), maps.std(axis=(2, 3)), maps.max(axis=(2, 3))], axis=1)
        bursts_of["burst_vectors"].append(vectors)
        bursts_of["burst_seconds"].append(plan.starts_seconds + encoder.clip_spacing_seconds * 1.5)
        bursts_of["burst_clip"].append(np.array([row.path.name] * len(vectors)))
        window = (plan.starts_seconds // WINDOW_SECONDS).astype(int)
        for w in np.unique(window):
            mine = window == w
            found["ids"].append(f"{row.path.name}#{w}")
            found["embeddings"].append(np.concatenate([vectors[mine].mean(axis=0), vectors[mine].max(axis=0)]))
            found["hand"].append(np.concatenate([hand[mine].mean(axis=0), hand[mine].max(axis=0)]))
            found["labels"].append("+".join(row.labels) or "benign")
            found["groups"].append(row.group)
            found["splits"].append(row.split)
            found["clips"].append(row.path.name)
        if number % 50 == 0:
            print(number, len(rows), flush=True)
    arrays = {name: np.array(values) for name, values in found.items()}
    arrays |= {name: np.concatenate(values) for name, values in bursts_of.items()}
    np.savez(
        out,
        **arrays,
        encoder=np.array(["tiny, untrained" if untrained else "tiny, shipped"]),
        fingerprint=np.array([encoder.fingerprint]),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "untrained" in sys.argv[3:])
