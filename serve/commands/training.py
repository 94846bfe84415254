"""`guard train`, `guard calibrate` and `guard traces`: make a model, and make its answers trustworthy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.errors import InvalidManifest, UsageError
from serve.commands.slow import calibrate_slow
from serve.terminal import fail_line, print_facts, print_json, print_rows, safe

if TYPE_CHECKING:
    from fast_path.calibration_file import CalibrationFile
    from serve.calibrate import Scored

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Shown = Annotated[str, typer.Option("--progress", help="bar, json or none, on stderr.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Decoder processes. Default: one a core.")]
GUARANTEES = ("expected", "high_probability")
STAGES = ("fast", "slow")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Train a model on your own clips.")
    group.command("fast")(train_fast)
    app.add_typer(group, name="train")
    app.command("calibrate")(calibrate)


def train_fast(
    manifest: Annotated[list[Path], typer.Option(help="Labelled clips, JSONL or CSV. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder; an unfinished run in it goes on.")],
    encoder: Annotated[str, typer.Option(help="Encoder to train or to build on.")] = "tiny",
    category: Annotated[list[str] | None, typer.Option(help="Category to learn. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the clips.")] = None,
    passes: Annotated[int | None, typer.Option(min=1, help="Times each clip is decoded, all but one altered.")] = None,
    workers: Workers = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared features. Default: inside --out.")] = None,
    encoder_setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the encoder. Repeatable.")] = None,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Train the classifier that screens every video; `train` rows teach, `val` rows decide when to stop.

    Writes weights, metrics and a model card. Killed, it goes on with the same command.
    """
    from fast_path.fit import FitSettings
    from fast_path.train import TrainSettings, train_fast
    from guard import taxonomy
    from serve.stages import make_stages

    own: dict[str, Any] = {"cache": cache}
    if category:
        own["categories"] = tuple(category)
    own |= {name: value for name, value in (("passes", passes), ("workers", workers)) if value is not None}
    for name in category or ():
        if not taxonomy.is_known(name):
            guess = taxonomy.suggestion(name)
            raise UsageError(f"There is no category {name!r}." + (f" Did you mean {guess!r}?" if guess else ""))
    chosen = TrainSettings(**own, fit=FitSettings() if epochs is None else FitSettings(epochs=epochs))
    with make_stages(progress) as step:
        result = train_fast(
            manifest,
            encoder,
            out,
            seed=seed,
            settings=chosen,
            encoder_settings=settings_of(encoder_setting),
            progress=step,
        )
    for line in result.failed:
        fail_line(f"left out: {line}")
    if as_json:
        from fast_path.metrics import table_json

        facts = {"folder": str(result.folder), "epoch": result.epoch, "failed": list(result.failed)}
        print_json({**facts, "validation": table_json(result.table)})
        return
    names = list(next(iter(result.table.values()), {}))
    rows = [(category, *(_estimate(row[name]) for name in names)) for category, row in result.table.items()]
    print_rows(("category", *names), rows)
    print(f"\n{safe(result.folder)}")
    print("Next: guard calibrate --checkpoint, on clips of a third split; nothing is proven yet.", file=sys.stderr)


def calibrate(
    manifest: Annotated[Path, typer.Option(help="Labelled clips that were not trained on, JSONL or CSV.")],
    out: Annotated[Path, typer.Option(help="The calibration to write, such as calibration.json.")],
    split: Annotated[str, typer.Option(help="Rows of the manifest to use.")] = "val",
    fnr: Annotated[float | None, typer.Option(help="Largest share of violating clips cleared unseen.")] = None,
    fpr: Annotated[float | None, typer.Option(help="Largest share of harmless clips blocked unseen.")] = None,
    budget: Annotated[float | None, typer.Option(help="Largest share of videos sent to the slow path.")] = None,
    guarantee: Annotated[str, typer.Option(help="expected or high_probability.")] = "expected",
    delta: Annotated[float, typer.Option(help="With high_probability: the chance to be misled.")] = 0.1,
    escalate_unproven: Annotated[
        bool, typer.Option("--escalate-unproven", help="Leave to the slow path what too few clips can prove.")
    ] = False,
    category: Annotated[
        list[str] | None, typer.Option(help="Fit only this; rules on others then need the slow path. Repeatable.")
    ] = None,
    never_block: Annotated[
        list[str] | None, typer.Option(help="Category whose high scores shall not block by themselves. Repeatable.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Detector to calibrate. Default: tiny.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of `guard train fast` to use.")] = None,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Go on without clips that cannot be decoded to their end.")
    ] = False,
    stage: Annotated[str, typer.Option(help="fast or slow.")] = "fast",
    slow: Annotated[str | None, typer.Option(help="With --stage slow: base URL of the VLM server.")] = None,
    policy: Annotated[str | None, typer.Option(help="With --stage slow: name or file of the policy.")] = None,
    error: Annotated[float, typer.Option(help="With --stage slow: largest share of wrong labels.")] = 0.05,
    everything: Annotated[
        bool, typer.Option("--all", help="With --stage slow: ask it also where the fast path is sure.")
    ] = False,
    workers: Workers = None,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Choose the scores at which the fast path may answer alone, and say what that proves.

    Give --fnr and --fpr, or --budget. A target that the clips cannot prove is refused (exit code 2) with the one that
    they can. Use the file with the setting `calibration` or GUARD_CALIBRATION.

    With --stage slow, choose how sure the VLM must be to settle a rule: give --slow and --error. Killed, it goes on
    with the same command. Use the file with GUARD_SLOW_CALIBRATION.
    """
    from guard.config import load_settings
    from serve import calibrate as calibration
    from serve.stages import make_stages

    if stage not in STAGES:
        raise UsageError(f"--stage takes {', '.join(STAGES)}; got {stage!r}.")
    if stage == "slow":
        calibrate_slow(
            manifest, out, split=split, slow=slow, error=error, delta=delta, everything=everything, workers=workers,
            policy=policy, as_json=as_json, progress=progress,
        )  # fmt: skip
        return
    if guarantee not in GUARANTEES:
        raise UsageError(f"--guarantee takes {', '.join(GUARANTEES)}; got {guarantee!r}.")
    target = calibration.Target(
        fnr=fnr,
        fpr=fpr,
        budget=budget,
        guarantee="expected" if guarantee == "expected" else "high_probability",
        delta=delta,
        escalate_unproven=escalate_unproven,
        only=tuple(category or ()),
        never_block=tuple(never_block or ()),
    )
    rows = calibration.rows_of(manifest, split)
    settings = load_settings(workers=workers, fast_checkpoint=checkpoint)
    model = calibration.detector_of(detector, settings.fast_checkpoint)
    calibration.check_categories(model, target)
    stopped = calibration.check_unseen(rows, detector, settings.fast_checkpoint)
    if stopped:
        fail_line(
            f"note: {stopped} of {len(rows)} clips chose the epoch that training kept. Scores of them are a little too "
            "good, and so is what is proven; clips that training never saw are better."
        )
    with make_stages(progress) as step:
        scored = calibration.score(rows, model, settings, step=step)
    for clip in scored.unscored:
        fail_line(f"not scored: {clip.path}: {clip.error.message} ({clip.error.code})")
    if scored.unscored and not skip_failed:
        raise InvalidManifest(
            f"{len(scored.unscored)} of {len(rows)} clips of the split {split!r} could not be scored.",
            hint="Mend or remove them, or leave them out with --skip-failed.",
        )
    made = calibration.fit(scored, target)
    out.parent.mkdir(parents=True, exist_ok=True)
    made.save(out)
    _show(made, scored, out, as_json=as_json)


def settings_of(given: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE pairs as settings of a part; a value is read as JSON where it is JSON, else as text."""
    import json

    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"A setting is written NAME=VALUE; got {pair!r}.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _estimate(estimate: Any) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f}-{estimate.high:.2f})"


def _show(made: CalibrationFile, scored: Scored, out: Path, *, as_json: bool) -> None:
    if as_json:
        unscored = [{"path": clip.path, "code": clip.error.code} for clip in scored.unscored]
        print_json({"file": str(out), "id": made.id, **made.model_dump(mode="json"), "not_scored": unscored})
        return
    clips = [
        (name, f"{c.clear.clips} in {c.clear.groups} groups", f"{c.block.clips} in {c.block.groups} groups", c.method)
        for name, c in made.categories.items()
    ]
    print_rows(("category", "violating", "harmless", "map"), clips)
    print()
    heads = ("category", "clear below", "miss", "block at", "false block")
    sides = [(name, c.clear, c.block) for name, c in made.categories.items()]
    print_rows(heads, [(n, _cut(clear), _bound(clear), _cut(block), _bound(block)) for n, clear, block in sides])
    print()
    print_facts(
        {
            "miss, false block": _meaning(made),
            "guarantee": made.guarantee,
            "to the slow path": f"{made.escalation:.1%} of the calibration videos",
            "clips": f"{made.clips} in {made.groups} groups; {len(scored.unscored)} not scored",
            "detector": f"{made.detector} {made.fingerprint}",
            "id": made.id,
        }
    )
    print(f"\nUse it with GUARD_CALIBRATION={safe(out)}", file=sys.stderr)


def _meaning(made: CalibrationFile) -> str:
    if made.guarantee == "estimate":
        return "estimates, not proven: the thresholds were chosen for the budget"
    often = "on average" if made.delta is None else f"for {1 - made.delta:.0%} of calibration sets"
    return f"at most, {often}, for clips like these from new groups"


def _cut(side: Any) -> str:
    return f"{side.threshold:.3f}" if 0 < side.threshold <= 1 else "never"


def _bound(side: Any) -> str:
    if not 0 < side.threshold <= 1:
        return "0"  # what the fast path never does alone, it never does wrongly
    return f"{side.target if side.proven else side.bound:.3f}"
