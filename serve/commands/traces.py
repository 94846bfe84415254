"""`guard traces` and `guard train slow`: a teacher's right answers, and a model that learns from them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.errors import InvalidManifest, UsageError, VlmUnavailable
from serve.terminal import print_facts, print_json

if TYPE_CHECKING:
    from guard.config import Settings
    from guard.interfaces import Case
    from serve.slow_cases import CaseLoader
    from slow_path.traces import Labelled, Trace, TraceReport

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Shown = Annotated[str, typer.Option("--progress", help="bar, json or none, on stderr.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Decoder processes. Default: one a core.")]
PolicyName = Annotated[str | None, typer.Option(help="Name of a policy, or a policy file.")]
Profile = Annotated[str | None, typer.Option(help="Slow-path settings: default or small. Or GUARD_SLOW_PROFILE.")]


def register(app: typer.Typer) -> None:
    """Add `traces` to `app`, and `slow` to its group `train`."""
    app.command("traces")(collect_traces)
    group = next(found for found in app.registered_groups if found.name == "train")
    if group.typer_instance is not None:
        group.typer_instance.command("slow")(train_slow)


def collect_traces(
    manifest: Annotated[Path, typer.Argument(help="Labelled clips, JSONL or CSV.", show_default=False)],
    slow: Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server with the teacher.")],
    out: Annotated[Path, typer.Option(help="JSONL file of traces; a run that stopped goes on in it.")],
    split: Annotated[str, typer.Option(help="Rows of the manifest to use.")] = "train",
    model: Annotated[str | None, typer.Option(help="Model name at the server. Default: the only one.")] = None,
    policy: PolicyName = None,
    profile: Profile = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Clips asked about at once.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Take at most this many clips.")] = None,
    workers: Workers = None,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Ask a teacher VLM to reason about labelled clips, and keep what it got right.

    A trace is kept if its verdict matches the label and its times were shown; a wrong one is asked for once more with
    the label as a hint, and marked. Killed or cut off, it goes on with the same command. Exit code 4: the teacher could
    not be reached for some clips.
    """
    from guard import plugins
    from serve.slow_cases import CaseLoader
    from serve.stages import make_stages
    from slow_path import traces

    chosen = _profile(profile)
    settings = _settings(policy, workers, slow_url=slow, slow_model=model)
    engine = plugins.load("engine", "vllm_server", base_url=slow, model=model, concurrency=concurrency)
    with CaseLoader(settings, chosen) as loader, make_stages(progress) as step:
        items = labelled(manifest, split, loader)[:limit]

        async def ask() -> TraceReport:
            try:
                await engine.connect()
                return await traces.collect(
                    items, engine, out, chosen, concurrency=concurrency, progress=lambda a, b: step("traces", a, b)
                )
            finally:
                await engine.close()

        report = asyncio.run(ask())
    facts = {"file": str(out), "clips": len(items), "kept": report.kept, "of them hinted": report.hinted}
    facts |= {f"not kept: {why}": count for why, count in sorted(report.refused.items())}
    facts |= {f"not asked: {why}": count for why, count in sorted(report.postponed.items())}
    (print_json if as_json else print_facts)(facts)
    if report.postponed:
        raise VlmUnavailable(
            f"The teacher did not answer for {sum(report.postponed.values())} of {len(items)} clips.",
            hint="Run the same command again; what is done is kept.",
        )


def train_slow(
    traces: Annotated[Path, typer.Option(help="File of `guard traces`.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that the traces were made from.")],
    model: Annotated[str, typer.Option(help="Hub name or folder of the VLM to fine-tune (Qwen-VL family).")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter; an unfinished run in it goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 500,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 2e-4,
    rank: Annotated[int, typer.Option(min=0, max=64, help="Rank of the LoRA adapter; 0 trains every weight.")] = 16,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 100,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision, for a GPU.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Fixes order and variation of the examples.")] = 0,
    policy: PolicyName = None,
    profile: Profile = None,
    workers: Workers = None,
    as_json: AsJson = False,
    progress: Shown = "bar",
) -> None:
    """Fine-tune a VLM on kept traces, by LoRA; the rules of each example are drawn, shuffled and numbered anew.

    Serve the adapter with `guard serve-vlm MODEL --adapter NAME=OUT` and ask for it with GUARD_SLOW_MODEL=NAME. Killed,
    it goes on with the same command.
    """
    from serve.slow_cases import CaseLoader
    from serve.stages import make_stages
    from slow_path import trace_examples
    from slow_path import traces as trace_file
    from slow_path.train import TrainSettings, fit

    chosen, kept = _profile(profile), [trace for trace in trace_file.read(_existing(traces)) if trace.kept]
    settings = TrainSettings(
        steps=steps, batch=batch, learning_rate=learning_rate, lora_rank=rank, lora_alpha=2 * rank,
        save_every=save_every, bf16=bf16, seed=seed,
    )  # fmt: skip
    with CaseLoader(_settings(policy, workers), chosen) as loader, make_stages(progress) as step:
        check_policy(kept, loader)
        source = trace_examples.source(kept, case_of(manifest, loader), chosen, seed=seed)
        made = fit(model, source, out, settings, progress=lambda done, total: step("train", done, total))
    hinted = sum(trace.hinted for trace in kept)
    facts: dict[str, Any] = {"folder": str(out), "steps": made.steps, "traces": len(kept), "of them hinted": hinted}
    if made.losses:
        facts["loss of the last steps"] = round(sum(made.losses[-20:]) / len(made.losses[-20:]), 4)
    (print_json if as_json else print_facts)(facts)


def labelled(manifest: Path, split: str, loader: CaseLoader) -> list[Labelled]:
    """Return the clips of one split, each with a way to its case; its id is its path in the manifest's folder."""
    from serve.calibrate import rows_of
    from slow_path.traces import Labelled

    rows = rows_of(manifest, split)

    def item(path: Path, labels: Sequence[str]) -> Labelled:
        return Labelled(id=_id(path, manifest), labels=frozenset(labels), load=lambda: loader.case(path))

    return [item(row.path, row.labels) for row in rows]


def case_of(manifest: Path, loader: CaseLoader) -> Any:
    """Return a function from a trace to its case, with the frames that the trace names; the last 64 are kept."""
    from fast_path.dataset import read_manifest

    paths = {_id(row.path, manifest): row.path for row in read_manifest(manifest)}

    @lru_cache(maxsize=64)
    def load(name: str, times_seconds: tuple[float, ...]) -> Case:
        if name not in paths:
            raise InvalidManifest(f"{manifest} has no clip {name!r}, which a trace was made from.")
        return loader.case(paths[name], times_seconds=times_seconds)

    return lambda trace: load(trace.id, trace.times_seconds)


def check_policy(kept: Sequence[Trace], loader: CaseLoader) -> None:
    """Raise `UsageError` if a trace was made under another policy: its rules would mean something else."""
    foreign = sorted({trace.policy_hash for trace in kept} - {loader.policy.hash})
    if foreign:
        raise UsageError(
            f"The traces were made under the policy {foreign[0][:12]}, and not under {loader.policy.name!r}.",
            hint="Give the policy that `guard traces` was given, with --policy.",
        )


def _id(path: Path, manifest: Path) -> str:
    folder = manifest.absolute().parent
    return str(path.absolute().relative_to(folder)) if path.absolute().is_relative_to(folder) else str(path)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UsageError(
            f"There is no file of traces {str(file)!r}.", hint="Make one: guard traces MANIFEST --slow URL"
        )
    return file


def _profile(name: str | None) -> Any:
    from slow_path.settings import configured, profile

    return configured() if name is None else profile(name)


def _settings(policy: str | None, workers: int | None, **more: Any) -> Settings:
    from guard.config import load_settings

    return load_settings(policy=policy, workers=workers, **more)
