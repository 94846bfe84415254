"""`guard eval`: run benchmarks, compare systems, find leaks.

`eval` lies beside `serve`, so its modules are found at run time, as `guard.api` finds the upper layers.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guard.errors import UsageError
from serve.failures import Exit


class _Group(TyperGroup):
    """`guard eval NAME ...` is `guard eval run NAME ...` for every name that is no command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `run` before the name of a benchmark."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        cls=_Group, no_args_is_help=True, help="Run benchmarks: guard eval NAME --data DIR --out RUN; compare systems."
    )
    group.command("list")(list_)
    group.command("run")(run)
    group.command("score")(score)
    group.command("compare")(compare)
    group.command("overlap")(overlap)
    group.command("self")(self_)
    app.add_typer(group, name="eval")


def list_(
    data: Annotated[Path | None, typer.Option(help="Say what of each benchmark is in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List the benchmarks, with what each needs and how to get it, and the systems that can be measured."""
    command = _eval("command")
    found = command.benchmarks()
    if as_json:
        plain = {
            name: {"title": a.title, "kind": a.kind, "source": a.source, "licence": a.licence, "get": a.get,
                   "layout": list(a.layout), "counts": dict(a.counts), "notes": list(a.notes)}
            for name, a in found.items()
        }  # fmt: skip
        print(json.dumps({"benchmarks": plain, "systems": command.systems()}, indent=1))
        return
    for name, about in found.items():
        counts = ", ".join(f"{value:,} {key}" for key, value in about.counts.items())
        print(f"{name.replace('_', '-'):20} {about.kind:6} {about.title}{f' ({counts})' if counts else ''}")
        if data is not None:
            print(f"{'':27} {_state(command, name, data)}")
    print("\nSystems:")
    for name, text in command.systems().items():
        print(f"{name.replace('_', '-'):20} {text}")
    print("\nguard eval NAME --data DIR --out RUN; docs/eval.md says where each comes from.", file=sys.stderr)


def run(
    name: Annotated[str, typer.Argument(help="A benchmark; see `guard eval list`.")],
    out: Annotated[Path, typer.Option(help="Run directory; with several systems, one below it for each.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the benchmark; rendered suites need none.")] = None,
    system: Annotated[list[str] | None, typer.Option(help="What to measure. Repeatable. Default: cascade.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value for the benchmark. Repeatable.")] = None,
    system_set: Annotated[list[str] | None, typer.Option(help="name=value for the system. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many samples, label sets in proportion.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the samples of --limit and the bootstrap.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: ask failed ones again.")] = False,
    invalid_policy: Annotated[
        str, typer.Option(help="What no answer counts as: wrong, negative, exclude, error.")
    ] = "wrong",
    missing_policy: Annotated[str, typer.Option(help="Missing files: skip (the run is partial) or error.")] = "skip",
    benign_labels: Annotated[
        str | None, typer.Option(help="SafeWatch-Bench: label of benign clips, empty or folder.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="official, strict or both.")] = "both",
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap draws of groups.")] = 1000,
    price_cpu_hour: Annotated[float, typer.Option(min=0, help="Money for a CPU hour.")] = 0.0,
    price_gpu_hour: Annotated[float, typer.Option(min=0, help="Money for a GPU hour.")] = 0.0,
    price_prompt: Annotated[float, typer.Option(min=0, help="Money for a million prompt tokens.")] = 0.0,
    price_completion: Annotated[float, typer.Option(min=0, help="Money for a million completion tokens.")] = 0.0,
    progress: Annotated[str, typer.Option(help="bar, json or none, on stderr.")] = "bar",
) -> None:
    """Measure one or several systems on a benchmark.

    Exit codes: 0 done; 2 usage; 3 some samples have no answer, or files are missing; 4 a backend is down.
    """
    from serve.stages import make_stages

    command, runner = _eval("command"), _eval("runner")
    _choice("--missing-policy", missing_policy, ("skip", "error"))
    _choice("--metrics", metrics, ("official", "strict", "both"))
    prices = _prices(price_cpu_hour, price_gpu_hour, price_prompt, price_completion)
    request = command.EvalRequest(
        benchmark=name,
        data=data,
        out=out,
        systems=tuple(system or ("cascade",)),
        benchmark_settings=_eval("settings").parse(set_ or (), "--set"),
        system_settings=_eval("settings").parse(system_set or (), "--system-set"),
        benign_labels=benign_labels,
        run=runner.RunRequest(
            out=out, limit=limit, seed=seed, resume=resume or retry_failed, retry_failed=retry_failed,
            missing=missing_policy,
        ),
        scoring=_eval("score").Scoring(
            invalid=invalid_policy, draws=draws, seed=seed, metrics=metrics, prices=prices
        ),
    )  # fmt: skip
    with make_stages(progress) as stages:
        found = command.evaluate(request, stages)
    _show(command, found, out)


def score(
    runs: Annotated[list[Path], typer.Argument(help="Finished run directories.", show_default=False)],
    invalid_policy: Annotated[
        str, typer.Option(help="What no answer counts as: wrong, negative, exclude, error.")
    ] = "wrong",
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap draws of groups.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Compute the metrics of finished runs again, without asking any system."""
    module = _eval("score")
    _choice("--invalid-policy", invalid_policy, _eval("table").INVALID_POLICIES)
    scoring = module.Scoring(invalid=invalid_policy, draws=draws, seed=seed)
    _show(_eval("command"), [module.score(path, scoring) for path in runs], runs[0])


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Finished run directories, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("compare.html"),
    markdown: Annotated[Path | None, typer.Option(help="Write the table there; by default to stdout.")] = None,
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap draws of the paired tests.")] = 1000,
    pictures: Annotated[bool, typer.Option(help="Put blurred pictures of the worst errors into the page.")] = True,
) -> None:
    """Compare finished runs: one self-contained page, and a Markdown table for each benchmark."""
    module, files = _eval("compare"), _eval("run_dir")
    found = module.compare(runs, draws=draws)
    files.write_text(out, _eval("page").render(found, pictures=pictures))
    text = "\n".join(f"### {one.title}\n\n{module.markdown(one)}" for one in found)
    if markdown is None:
        print(text)
    else:
        files.write_text(markdown, text)
    print(f"Page: {out}", file=sys.stderr)


def overlap(
    manifest: Annotated[Path, typer.Argument(help="The manifest that a model was trained with.")],
    benchmark: Annotated[str, typer.Option(help="The benchmark that may have leaked into it.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the benchmark.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value for the benchmark. Repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Split of the manifest; all compares every row.")] = "train",
    out: Annotated[Path | None, typer.Option(help="Write the report there as JSON; by default to stdout.")] = None,
    progress: Annotated[str, typer.Option(help="bar, json or none, on stderr.")] = "bar",
) -> None:
    """Find what of a benchmark a training manifest holds: the same file, or another encoding of the same clip.

    Exit codes: 0 nothing found; 1 something found; 2 usage; 3 some clips could not be looked at.
    """
    from serve.stages import make_stages

    command, files = _eval("command"), _eval("run_dir")
    loaded = command.load_benchmark(benchmark, data, _eval("settings").parse(set_ or (), "--set"), None)
    with make_stages(progress) as stages:
        report = _eval("overlap").check(loaded, manifest, split=None if split == "all" else split, progress=stages)
    plain = report.to_json()
    if out is None:
        print(json.dumps(plain, indent=1))
    else:
        files.write_json(out, plain)
    print(f"{plain['overlapping']} of {plain['items']} items overlap with {plain['training']} rows.", file=sys.stderr)
    if plain["overlapping"]:
        raise typer.Exit(Exit.FAIL_ON_MATCHED)
    if plain["unread"]:
        raise typer.Exit(Exit.SOME_UNDECIDED)


def self_(
    out: Annotated[Path, typer.Option(help="Folder for the runs; a second call takes up what is there.")],
    videos: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl and the clips it names.")] = None,
    text: Annotated[Path | None, typer.Option(help="Folder with labelled lines.")] = None,
    suites: Annotated[Path | None, typer.Option(help="Keep the rendered clips there.")] = None,
    slow_url: Annotated[str | None, typer.Option(help="A VLM server: measures the cascade and the slow path.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure only this cell. Repeatable.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report there; by default to stdout.")] = None,
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap draws of groups.")] = 1000,
    progress: Annotated[str, typer.Option(help="bar, json or none, on stderr.")] = "bar",
) -> None:
    """Measure this project on what can run here; what cannot stays blank and says why."""
    from serve.stages import make_stages

    acceptance = _eval("acceptance")
    known = [*(cell.key for cell in acceptance.CELLS), acceptance.OVERLAP]
    for name in only or ():
        _choice("--only", name, tuple(known))
    folders = acceptance.Folders(videos=videos, text=text, suites=suites, slow_url=slow_url)
    with make_stages(progress) as stages:
        told = acceptance.measure(out, folders, only=tuple(only or ()), draws=draws, progress=stages)
    for key, what in told.items():
        print(f"{key}: {what}", file=sys.stderr)
    written = acceptance.report(out, draws=draws)
    if report is None:
        print(written)
    else:
        _eval("run_dir").write_text(report, written)


def _show(command: Any, found: list[dict[str, Any]], out: Path) -> None:
    for metrics in found:
        print("\n".join(command.summary_lines(metrics)), file=sys.stderr)
    print(out)
    if any(m["coverage"]["partial"] or m["coverage"]["answered"] < m["coverage"]["asked"] for m in found):
        raise typer.Exit(Exit.SOME_UNDECIDED)


def _state(command: Any, name: str, data: Path) -> str:
    """Return what of a benchmark is in a folder, in words."""
    if not command.benchmarks()[name].layout:
        return "Rendered on the spot."
    try:
        loaded = command.load_benchmark(name, data, {}, None)
    except UsageError as error:
        return f"not there: {error.message}"
    lines = _eval("files").missing_lines(loaded.missing)
    return " ".join([f"{len(loaded.items)} of {loaded.expected} items there.", *lines])


def _prices(cpu: float, gpu: float, prompt: float, completion: float) -> Any:
    if not any((cpu, gpu, prompt, completion)):
        return None
    return _eval("metrics.cost").Prices(
        cpu_hour=cpu, gpu_hour=gpu, million_prompt_tokens=prompt, million_completion_tokens=completion
    )


def _choice(option: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise UsageError(f"{option} takes {', '.join(allowed)}; got {given!r}.")


def _eval(module: str) -> Any:
    return importlib.import_module(f"eval.{module}")
