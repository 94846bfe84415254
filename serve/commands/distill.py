"""`guard distill`: keep the few training clips that teach the most; find wrong labels; say what to label next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from guard.errors import UsageError
from serve.commands.training import settings_of
from serve.terminal import fail_line, print_facts, print_json, print_rows, safe

if TYPE_CHECKING:
    from typer._click.core import Context

    from data_filter.look import DistillConfig
    from data_filter.review import Action

Manifest = Annotated[Path, typer.Argument(help="Labelled clips, JSONL or CSV.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Run directory; an unfinished run in it goes on.")]
Embeddings = Annotated[Path | None, typer.Option(help=".npz of ids and embeddings, instead of decoding for them.")]
Encoder = Annotated[str, typer.Option(help="Encoder that looks at the clips.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Decoder processes.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Decisions = Annotated[Path | None, typer.Option(help="Folder of a review queue, such as OLD/audit, to go by.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of what was read of clips. Default: inside --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Shown = Annotated[str, typer.Option("--progress", help="bar, json or none, on stderr.")]
METHODS = ("ideal", "vote_k")


class DefaultToRun(TyperGroup):
    """`guard distill MANIFEST` is `guard distill run MANIFEST`; a manifest called `audit` is `./audit`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put `run` in front of what names no command."""
        asks_help = bool(args) and args[0] in ctx.help_option_names
        if args and args[0] not in self.commands and not asks_help:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(
        cls=DefaultToRun, no_args_is_help=True, help="Distil a training set: `guard distill MANIFEST --keep 2.4%`."
    )
    group.command("run")(run)
    group.command("audit")(audit)
    group.command("review")(review)
    group.command("annotate")(annotate)
    app.add_typer(group, name="distill")


def run(
    manifest: Manifest,
    out: Out,
    keep: Annotated[str, typer.Option(help="Share of the `train` rows to keep, such as 2.4%, or a number.")] = "2.4%",
    scorer: Annotated[str, typer.Option(help="What a clip is worth.")] = "grad_cos",
    selector: Annotated[str, typer.Option(help="Which clips to take together.")] = "facility_location",
    scorer_setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE. Repeatable.")] = None,
    selector_setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE. Repeatable.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Manifest of what to become good at. Default: `val`.")] = None,
    embeddings: Embeddings = None,
    decisions: Decisions = None,
    cache: Cache = None,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Look at the clips themselves.")] = True,
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Look for likely wrong labels.")] = True,
    drop_doubtful: Annotated[
        bool, typer.Option("--drop-doubtful", help="Leave likely wrong labels out until a person has decided.")
    ] = False,
    dedup: Annotated[bool, typer.Option("--dedup/--no-dedup", help="Leave out near-duplicates.")] = True,
    floor: Annotated[int, typer.Option(min=0, help="Fewest picks of each label set that has clips to give.")] = 1,
    encoder: Encoder = "tiny",
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Keep the training clips that teach the most, and write them as a manifest for `guard train fast`."""
    from dataclasses import replace

    from data_filter.run import distill
    from serve.stages import make_stages

    if drop_doubtful and not audit:
        raise UsageError("--drop-doubtful needs the audit.", hint="Leave --no-audit out.")
    config = config_of(encoder, seed, workers, decode=decode)
    config = replace(
        config,
        keep=keep,
        scorer=scorer,
        selector=selector,
        scorer_settings=settings_of(scorer_setting),
        selector_settings=settings_of(selector_setting),
        audit=config.audit if audit else None,
        drop_doubtful=drop_doubtful,
        dedup=dedup,
        floor=floor,
    )
    with make_stages(progress) as step:
        outcome = distill(
            manifest,
            out,
            config,
            queries=queries,
            embeddings=embeddings,
            decisions=decisions,
            cache=cache,
            progress=step,
        )
    selected = out / "selected.jsonl"
    if as_json:
        print_json({**asdict(outcome), "out": str(out), "selected": str(selected)})
        return
    short = "" if outcome.kept == outcome.asked else f"; {outcome.asked} were asked for, but no more were left"
    print_facts(
        {
            "kept": f"{outcome.kept} of {outcome.pool}{short}",
            "left out before": ", ".join(f"{n} {why}" for why, n in outcome.dropped.items()) or "none",
            "not readable": outcome.failures,
            "labels in doubt": f"{outcome.doubted}; see: guard distill review {safe(out / 'audit')}",
            "diversity": outcome.diversity,
        }
    )
    print()
    print_rows(("label set", "kept"), sorted(outcome.picks.items()))
    print(f"\n{safe(selected)}\n{safe(out / 'report.html')}")
    for name, count in outcome.emptied.items():
        fail_line(f"nothing was kept of {name} ({count} rows); left_out.jsonl says why")


def audit(
    manifest: Manifest,
    out: Out,
    embeddings: Embeddings = None,
    cache: Cache = None,
    encoder: Encoder = "tiny",
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Find labels that are likely wrong, the most suspicious first, as a queue for a person."""
    from data_filter.audit import as_record
    from data_filter.run import run_audit
    from serve.stages import make_stages

    config = config_of(encoder, seed, workers, decode=embeddings is None)
    with make_stages(progress) as step:
        findings = run_audit(manifest, out, config, embeddings=embeddings, cache=cache, progress=step)
    doubted = [finding for finding in findings if finding.doubted]
    if as_json:
        print_json({"out": str(out), "rows": len(findings), "doubted": [as_record(finding) for finding in doubted]})
        return
    rows = [(f.id, f.label, f.suggested, f"{f.suspicion:.2f}") for f in doubted]
    print_rows(("clip", "label", "rather", "suspicion"), rows)
    print(
        f"\n{len(doubted)} of {len(findings)} labels in doubt; work through them with: guard distill review {safe(out)}"
    )


def review(
    queue: Annotated[Path, typer.Argument(help="Folder of the queue: RUN/audit, or --out of `audit`.")],
    clip: Annotated[str | None, typer.Option(help="Clip to decide on, as the queue calls it.")] = None,
    action: Annotated[str | None, typer.Option(help="keep, relabel, drop, or undo.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Right category, with relabel; benign for none. Repeatable.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who decides.")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the labels in doubt that nobody has decided on, or decide on one. Decisions can be undone.

    `guard distill MANIFEST --out NEW --decisions QUEUE` goes by them.
    """
    from data_filter.review import Decision, ReviewQueue

    held = ReviewQueue(queue)
    if (clip is None) != (action is None):
        raise UsageError("--clip and --action go together.", hint="Without either, the open clips are listed.")
    if clip is not None and action is not None:
        if action == "relabel" and not label:
            raise UsageError("relabel needs the right labels.", hint="Pass --label CATEGORY, or --label benign.")
        held.decide(Decision(id=clip, action=action_of(action), labels=tuple(label or ()), by=by, note=note))
    pending, decided = held.pending(), held.decisions()
    if as_json:
        print_json({"pending": pending, "decided": [asdict(decision) for decision in decided.values()]})
        return
    if clip is None:
        rows = [(f["id"], f["label"], f["suggested"], f"{f['suspicion']:.2f}") for f in pending]
        print_rows(("clip", "label", "rather", "suspicion"), rows)
    print(f"\n{len(pending)} open, {len(decided)} decided")


def action_of(name: str) -> Action:
    """Return the action called `name`, or raise `UsageError`."""
    from data_filter.review import Action

    known: tuple[Action, ...] = get_args(Action)
    for action in known:
        if action == name:
            return action
    raise UsageError(f"--action takes {', '.join(known)}; got {name!r}.")


def annotate(
    manifest: Manifest,
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Clips that a person can label.")] = 20,
    method: Annotated[str, typer.Option(help="ideal or vote_k.")] = "ideal",
    embeddings: Embeddings = None,
    cache: Cache = None,
    encoder: Encoder = "tiny",
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Say which clips a person should label, the most useful first; labels in the manifest are ignored."""
    from data_filter.annotate import AnnotateConfig
    from data_filter.annotate_run import run_annotate
    from serve.stages import make_stages

    if method not in METHODS:
        raise UsageError(f"--method takes {', '.join(METHODS)}; got {method!r}.")
    chosen = AnnotateConfig(method="ideal" if method == "ideal" else "vote_k", seed=seed)
    config = config_of(encoder, seed, workers, decode=embeddings is None)
    out.mkdir(parents=True, exist_ok=True)
    with make_stages(progress) as step:
        lines = run_annotate(
            manifest, out, count, chosen, settings=config, embeddings=embeddings, cache=cache, progress=step
        )
    if as_json:
        print_json({"file": str(out / "annotate.jsonl"), "picks": lines})
        return
    print_rows(("pick", "clip", "reach"), [(line["pick"], line["id"], f"{line['reach']:.3f}") for line in lines])
    print(f"\n{safe(out / 'annotate.jsonl')}")


def config_of(encoder: str, seed: int, workers: int, *, decode: bool) -> DistillConfig:
    """Return the settings that all three commands share."""
    from data_filter.clips import ClipSettings
    from data_filter.look import DistillConfig

    own: dict[str, Any] = {"seed": seed, "workers": workers, "decode": decode}
    return DistillConfig(clips=ClipSettings(encoder=encoder), **own)
