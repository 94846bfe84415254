"""`guard calibrate --stage slow`: how sure the VLM must be to settle a rule."""

from __future__ import annotations

from pathlib import Path

from guard.errors import UsageError, VlmUnavailable
from serve.terminal import print_facts, print_json


def calibrate_slow(
    manifest: Path,
    out: Path,
    *,
    split: str,
    slow: str | None,
    error: float,
    delta: float,
    everything: bool,
    workers: int | None,
    policy: str | None,
    as_json: bool,
    progress: str,
) -> None:
    """Find the lowest confidence at which the slow path's labels are wrong at most as often as `error`.

    Raises:
        UsageError: no server is named.
        InfeasibleTarget: the clips do not prove it.
        VlmUnavailable: the server did not answer for some clips; the same call asks those alone.
    """
    from guard.config import load_settings
    from serve import slow_calibrate
    from serve.calibrate import rows_of
    from serve.stages import make_stages

    settings = load_settings(workers=workers, policy=policy, slow_url=slow)
    if settings.slow_url is None:
        raise UsageError("--stage slow needs a VLM server: give --slow URL or set GUARD_SLOW_URL.")
    rows = rows_of(manifest, split)
    with make_stages(progress) as step:
        found = slow_calibrate.ask(rows, settings, out, everything=everything, step=step)
    if found.postponed:
        raise VlmUnavailable(
            f"The slow path did not answer for {sum(found.postponed.values())} of {len(rows)} clips.",
            hint="Run the same command again; what is done is kept.",
        )
    made = slow_calibrate.save(slow_calibrate.fit(found, error=error, delta=delta), found, settings, out)
    if as_json:
        print_json({"file": str(out), **made})
        return
    print_facts(
        {
            "labels at or above": f"{made['floor']:.2f} settle a rule",
            "wrong among them": f"{made['errors']} of {made['settled']}; at most {made['bound']:.3f} (delta {delta:g})",
            "labels in all": f"{made['total']} on {found.clips} clips",
            "without an answer": ", ".join(f"{code} {n}" for code, n in found.failed.items()) or "none",
            "use it with": f"GUARD_SLOW_CALIBRATION={out}",
        }
    )
