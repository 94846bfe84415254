"""What is installed, whether it works, and what is missing: the checks behind `guard doctor`."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

from guard import plugins
from guard._version import __version__

State: TypeAlias = Literal["ok", "missing", "weak", "broken"]

_OPTIONAL = {
    "decord": "decord", "hub": "transformers", "parquet": "pyarrow", "slow": "openai", "train": "peft", "vllm": "vllm",
}  # fmt: skip
"""Extra to the module that shows whether it is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `broken` stops scans; `weak` works with less protection; `missing` is optional."""

    name: str
    state: State
    found: str

    def to_json(self) -> dict[str, str]:
        """Return the check as JSON values."""
        return asdict(self)


def examine() -> list[Check]:
    """Run every check. A check that fails is `broken`; none raises."""
    groups: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("versions", _versions),
        ("decoder", _decoder),
        ("sandbox", _sandbox),
        ("models", _models),
        ("calibration", _calibration),
        ("slow path", _slow_path),
        ("policies", _policies),
        ("parts", _parts),
        ("extras", _extras),
    )
    return [check for name, group in groups for check in _guarded(name, group)]


def _guarded(name: str, group: Callable[[], Iterator[Check]]) -> list[Check]:
    checks: list[Check] = []
    try:
        for check in group():
            checks.append(check)  # noqa: PERF402 - what was found before an error counts
    except Exception as error:
        checks.append(Check(name=name, state="broken", found=f"{type(error).__name__}: {error}"))
    return checks


def _versions() -> Iterator[Check]:
    yield Check(name="video-guard", state="ok", found=__version__)
    yield Check(
        name="python", state="ok", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    for requirement in distribution("video-guard").requires or []:
        if "extra ==" not in requirement:
            name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
            try:
                yield Check(name=name, state="ok", found=version(name))
            except PackageNotFoundError:
                yield Check(name=name, state="broken", found=f"not installed; needed: {requirement}")


def _decoder() -> Iterator[Check]:
    import av
    import cv2

    def number(parts: Iterable[int]) -> str:
        return ".".join(map(str, parts))

    codecs, formats = av.library_versions["libavcodec"], av.library_versions["libavformat"]
    found = f"FFmpeg {av.ffmpeg_version_info} (libavcodec {number(codecs)}, libavformat {number(formats)})"
    yield Check(name="decoder: av", state="ok", found=found)
    build = re.search(r"avcodec:\s*YES\s*\(([\d.]+)\)", cv2.getBuildInformation())
    found = f"libavcodec {build[1]}" if build else "its build does not say which FFmpeg it holds"
    yield Check(name="decoder: opencv", state="ok", found=f'{found}; decodes no video unless reader = "opencv"')


def _sandbox() -> Iterator[Check]:
    from guard.video.sandbox import sandbox_report

    for measure, answer in sandbox_report().items():
        yield Check(name=f"sandbox: {measure}", state="ok" if answer.startswith("on") else "weak", found=answer)


def _models() -> Iterator[Check]:
    weights = Path(str(files("fast_path") / "weights"))
    for path in sorted(weights.rglob("*.safetensors")):
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size / 1e6
        found = f"{size:.1f} MB, sha256 {digest[:16]}..., in {path.parent}"
        yield Check(name=f"model file {path.relative_to(weights)}", state="ok", found=found)
    from guard.config import load_settings

    settings = load_settings()
    for name in settings.detectors:
        yield from _guarded(f"detector {name}", partial(_detector, name, settings.fast_checkpoint))


def _detector(name: str, checkpoint: Path | None) -> Iterator[Check]:
    from fast_path.loading import CLASSIFIERS, load_detectors

    (detector,) = load_detectors([name], checkpoint if name in CLASSIFIERS else None)
    found = f"fingerprint {detector.fingerprint}; {', '.join(detector.categories)}"
    yield Check(name=f"detector {detector.name}", state="ok", found=found)


def _calibration() -> Iterator[Check]:
    """Say which calibration the settings take for each detector; one that does not fit is broken."""
    from fast_path.calibration import load_calibrators
    from fast_path.loading import load_detectors
    from guard.config import load_settings

    settings = load_settings()
    known = [name for name in settings.detectors if name in plugins.names("detector")]
    detectors = load_detectors(known, settings.fast_checkpoint)
    used = load_calibrators(settings.calibration, detectors, loaded=detectors, max_gap_seconds=settings.max_gap_seconds)
    for detector in detectors:
        calibrator = used.get(detector.name)
        source = settings.calibration or "shipped with the package"
        found = f"{calibrator.id}, {source}" if calibrator else "none: raw scores, default thresholds"
        yield Check(name=f"calibration of {detector.name}", state="ok" if calibrator else "missing", found=found)


def _slow_path() -> Iterator[Check]:
    """Ask the VLM server for its models, where one is configured."""
    import json
    import os
    import urllib.request

    from guard.config import load_settings

    settings = load_settings()
    if settings.slow_url is None:
        yield Check(name="slow path", state="missing", found="no VLM is configured (--slow URL or GUARD_SLOW_URL)")
        return
    url = settings.slow_url.rstrip("/") + "/models"
    if not url.startswith(("http://", "https://")):
        yield Check(name="slow path", state="broken", found=f"{settings.slow_url!r} is no http address")
        return
    key = os.environ.get("GUARD_SLOW_API_KEY", "none")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=5) as page:  # noqa: S310 - the scheme is checked above
            models = [str(model["id"]) for model in json.load(page)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Check(name="slow path", state="broken", found=f"{settings.slow_url} gives no list of models: {error}")
        return
    named = settings.slow_model
    served = f"{settings.slow_url} serves {', '.join(models) or 'no model'}"
    if named is None and len(models) != 1:
        yield Check(name="slow path", state="broken", found=f"{served}; name one with GUARD_SLOW_MODEL")
    elif named is not None and named not in models:
        yield Check(name="slow path", state="broken", found=f"{served}, and not {named}")
    else:
        yield Check(name="slow path", state="ok", found=served)


def _policies() -> Iterator[Check]:
    from policies.load import library, load_policy

    names = library()
    for name in names:
        load_policy(name)
    yield Check(name="policy library", state="ok", found=f"{len(names)} policies, all valid")


def _parts() -> Iterator[Check]:
    for kind in plugins.FOLDERS:
        yield Check(name=f"parts: {kind}", state="ok", found=", ".join(plugins.names(kind)) or "none")


def _extras() -> Iterator[Check]:
    for extra, module in _OPTIONAL.items():
        present = importlib.util.find_spec(module) is not None
        found = f"{module} is installed" if present else plugins.install_command(extra)
        yield Check(name=f"extra {extra}", state="ok" if present else "missing", found=found)
