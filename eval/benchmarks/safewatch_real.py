"""SafeWatch-Bench, real videos."""

from __future__ import annotations

from pathlib import Path

from eval import safewatch
from eval.building import finish
from eval.files import Collector, LabelFiles
from eval.rendering import scratch
from eval.safewatch import Config
from eval.types import Benchmark

ABOUT = safewatch.about("real")


def build(config: Config) -> Benchmark:
    """Read the label files and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    found = Collector(benchmark="safewatch_real", get=ABOUT.get)
    domain = safewatch.read(files, "real", config)
    safewatch.collect(found, domain)
    protocols = ("safewatch", "single_label")
    return finish(found, ABOUT, safewatch.COLUMNS, data_hash=files.hash, protocols=protocols, notes=tuple(domain.notes))


def miniature(data: Path) -> Config:
    """Write one clip for each of the 34 stems below `data`, in the real layout."""
    return safewatch.miniature(data, "real")


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
