"""Runs at the start of a vLLM server on a CPU machine and of its children; see `slow_path.server`.

The torchvision wheel that fits torch 2.13 is built for CUDA: beside a CPU torch its import fails, since its
operators are registered by a library that does not load. vLLM needs torchvision's transforms alone, which are plain
torch. Declaring the two operators that the import looks up makes it succeed; calling them still fails, and nothing
here calls them.
"""

from contextlib import suppress

with suppress(ImportError, RuntimeError):  # RuntimeError: a torchvision that works has declared them already
    import torch

    LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
