"""Our own cascade, as `guard scan` runs it: screening, routing, and the slow path where one is configured.

Text goes the way of `Guard.check_text`. Without `slow_url` this is the fast path alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from eval.types import Kind, Prediction, Sample
from eval.verdicts import prediction_of
from guard.api import Guard, load_named
from guard.config import load_settings
from guard.errors import InputError
from guard.types import Policy, Video
from guard.verdict import failed

TEXT_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How the guard is set up; what is not given comes from the settings of this process."""

    policy: str = ""
    """Name or path of a policy to judge under; empty takes the benchmark's own."""
    slow_url: str | None = None
    slow_model: str | None = None
    detectors: str = ""
    """Names, separated by commas; empty takes those of the settings."""
    calibration: str = ""
    workers: int = 0
    """Decoder processes; 0 takes one a core."""
    max_gap_seconds: float = 0.0
    """0 takes the settings' own."""


class Cascade:
    """A `Guard` for each policy of a benchmark, built when it is needed."""

    def __init__(self, config: Config, *, name: str = "cascade", screen: bool = True, slow: bool = True) -> None:
        """`screen` false leaves every detector out, `slow` false the slow path, whatever the settings say."""
        self._config = config
        self._name = name
        overrides: dict[str, Any] = {
            "slow_url": config.slow_url or None,
            "slow_model": config.slow_model or None,
            "detectors": tuple(config.detectors.split(",")) if config.detectors else None,
            "calibration": config.calibration or None,
            "workers": config.workers or None,
            "max_gap_seconds": config.max_gap_seconds or None,
        }
        parts: dict[str, Any] = {} if screen else {"detectors": ()}
        parts |= {} if slow else {"slow_url": None, "slow_model": None}
        self._settings = load_settings(**overrides).model_copy(update=parts)
        self._guard: tuple[str, Guard] | None = None

    @property
    def name(self) -> str:
        """Registry key, with the VLM where there is one."""
        return f"{self._name}+{self._settings.slow_model or 'vlm'}" if self._settings.slow_url else self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Both."""
        return frozenset({"video", "text"})

    @property
    def signature(self) -> Mapping[str, Any]:
        """The settings that could change a verdict."""
        keep = {"detectors", "calibration", "slow_url", "slow_model", "max_gap_seconds", "seed", "reader", "limits"}
        plain = self._settings.model_dump(mode="json", include=keep)
        if plain["slow_url"]:
            plain["slow_url"] = plain["slow_url"].rpartition("@")[2]
        own = self._settings.fast_checkpoint
        return {
            **plain,
            "policy": self._config.policy,
            # a file or layer of the same name may say something else tomorrow
            "policy_hash": load_named(self._config.policy).hash if self._config.policy else "",
            "weights": weights_hash(),
            "checkpoint": "" if own is None else folder_hash(own),
        }

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield one prediction per sample; samples of one policy and kind that follow each other share a guard."""
        for (policy, kind), members in groupby(samples, key=lambda s: (s.policy, s.kind)):
            answer = self._texts if kind == "text" else self._videos
            yield from answer(self._guard_for(self._config.policy or policies[policy]), members)

    def _videos(self, guard: Guard, samples: Iterable[Sample]) -> Iterator[Prediction]:
        ready: list[Prediction] = []
        names: list[str] = []

        def opened() -> Iterator[Video]:
            for sample in samples:
                try:
                    video = guard.open(sample.path or Path(), name=sample.id)
                except InputError as error:
                    verdict = failed(source=sample.id, sha256=None, policy=guard.policy, error=error.info())
                    ready.append(prediction_of(sample.id, verdict))
                    continue
                names.append(sample.id)
                yield video

        for verdict in guard.check_many(opened()):
            yield prediction_of(names.pop(0), verdict)
            while ready:
                yield ready.pop(0)
        yield from ready

    def _texts(self, guard: Guard, samples: Iterable[Sample]) -> Iterator[Prediction]:
        for batch in batched(samples, TEXT_BATCH):
            started = time.perf_counter()
            verdicts = guard.check_texts([sample.text or "" for sample in batch])
            each_ms = (time.perf_counter() - started) * 1e3 / len(batch)
            for sample, verdict in zip(batch, verdicts, strict=True):
                yield prediction_of(sample.id, verdict, latency_ms=each_ms)

    def _guard_for(self, policy: Policy | str) -> Guard:
        key = policy if isinstance(policy, str) else policy.hash
        if self._guard is None or self._guard[0] != key:
            self.close()
            self._guard = (key, Guard.load(self._settings, policy=policy))
        return self._guard[1]

    def close(self) -> None:
        """Stop the decoders."""
        if self._guard is not None:
            self._guard[1].close()
            self._guard = None


@cache
def weights_hash() -> str:
    """Return 16 hex digits over the shipped weights and calibrations: other weights give other answers."""
    return folder_hash(Path(str(resources.files("fast_path").joinpath("weights"))))


def folder_hash(folder: Path) -> str:
    """Return 16 hex digits over the files below a folder, but for the words about them."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def batched(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield the samples in lists of at most `size`."""
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch


def build(config: Config) -> Cascade:
    """Return the system; the guard is built at the first sample."""
    return Cascade(config)


def tiny() -> Cascade:
    """Return the fast path alone with one decoder process."""
    return build(Config(workers=1))
