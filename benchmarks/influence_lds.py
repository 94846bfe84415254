"""Linear datamodelling score of our scorers and of four libraries, in one process, on the same models (scikit-learn
digits).

Usage: python benchmarks/influence_lds.py OUT.json [PARTS]
(PARTS: folder to go on in; needs kronfluence, traker, dattri, captum and scikit-learn; torch 2.13)

1,000 training rows, 300 queries, an MLP 64-64-10; truth is 100 random halves x 5 seeds, trained side by side.
Seconds are for scoring 1,000 x 300 pairs from a trained model, gradients included, one thread; the best of 3 base
models' LDS is never taken: mean and deviation are given.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402

from data_filter import lds  # noqa: E402
from data_filter.ensemble import HeadSpec  # noqa: E402
from data_filter.projection import WHOLE, ProjectionSpec  # noqa: E402
from data_filter.types import FeatureView  # noqa: E402
from data_filter.warmup import WarmUp, WarmUpConfig, warm_up  # noqa: E402
from guard import plugins  # noqa: E402

torch.set_num_threads(1)
TRAIN, QUERIES = 1000, 300
CURVATURE = 3000
REPEATS = 2
SPEC = HeadSpec(hidden=(64,), epochs=30.0, batch=50, learning_rate=3e-3, weight_decay=1e-4)


def world(seed: int) -> tuple[FeatureView, FeatureView, FeatureView]:
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.data))
    x, y = (data.data / 16).astype(np.float32), np.eye(10, dtype=np.float32)[data.target]

    def view(at: np.ndarray, prefix: str) -> FeatureView:
        return FeatureView(
            ids=tuple(f"{prefix}{i}" for i in at),
            targets=y[at],
            categories=tuple("0123456789"),
            loss="softmax",
            embeddings=x[at],
        )

    tuning = order[TRAIN + QUERIES : TRAIN + QUERIES + 150]
    return view(order[:TRAIN], "t"), view(order[TRAIN : TRAIN + QUERIES], "q"), view(tuning, "v")


def config(seed: int, **changes: Any) -> WarmUpConfig:
    spec = replace(SPEC, seed=10_000 + seed, checkpoints=6)
    settings = {"head": spec, "projection": WHOLE, "folds": 0, "curvature_rows": CURVATURE, "adam": True, **changes}
    return WarmUpConfig(**settings)


def ours(train: FeatureView, queries: FeatureView, truth: lds.Truth, head: WarmUp, damping: dict[str, float]) -> dict:
    own = lds.per_query(queries)
    found: dict[str, dict[str, float]] = {}

    def measure(label: str, name: str, head: WarmUp = head, curvature: int = CURVATURE, **settings: Any) -> None:
        best = np.inf
        for _ in range(REPEATS):
            start = time.process_time()
            needs_curvature = name in ("fisher", "ekfac") and settings.get("labels") != "given"
            cut = replace(head.config, adam=name == "less", curvature_rows=curvature if needs_curvature else 0)
            light = replace(
                head, config=cut, snapshots=head.snapshots if name in ("tracin", "less") else head.snapshots[-1:]
            )
            a = describe_light(light, train, training=needs_curvature or name == "less")
            b = describe_light(light, own, training=False)
            values = plugins.load("scorer", name, **settings).score(a, b).values
            best = min(best, time.process_time() - start)
        found[label] = {"lds": lds.lds(values.astype(np.float64), truth), "seconds": best}

    for name in ("grad_dot", "grad_cos", "tracin", "less", "datainf"):
        measure(name, name)
    measure("trak (1 model)", "trak", damping=damping["trak"])
    measure("fisher, given labels", "fisher", labels="given", damping=damping["fisher given"])
    measure("fisher, all labels", "fisher", damping=damping["fisher all"])
    measure("ekfac", "ekfac", damping=damping["ekfac"])
    measure("ekfac, 100 examples behind the factors", "ekfac", curvature=1000, damping=damping["ekfac"])
    projected = replace(head, config=replace(head.config, projection=ProjectionSpec(k_out=16, k_in=32)))
    measure("grad_dot, projected to 672", "grad_dot", head=projected)
    measure("fisher, all labels, projected to 672", "fisher", head=projected, damping=damping["fisher all"])
    found["random"] = {"lds": lds.lds(np.random.default_rng(0).normal(size=(TRAIN, QUERIES)), truth), "seconds": 0.0}
    return found


def describe_light(head: WarmUp, view: FeatureView, *, training: bool) -> FeatureView:
    """Gradients alone: what the peers are timed on, too."""
    from data_filter.warmup import collect

    gradients, facts = collect(head, view, None, training=training and head.config.curvature_rows > 0)
    adam = collect(head, view, None, training=False, adam=True)[0] if head.config.adam else None
    return replace(view, gradients=gradients, adam=adam, aux=facts)


def kronfluence_scores(
    model: nn.Module, xt: Any, yt: Any, xq: Any, yq: Any, damping: float | None, *, as_it_comes: bool = False
) -> np.ndarray:
    """Through our adapter, which keeps the library's garbage collections short, or with those at full length."""
    from torch.utils.data import TensorDataset

    from data_filter.scorers import kronfluence
    from data_filter.scorers.kronfluence import pairwise

    rows, asked = (TensorDataset(x, nn.functional.one_hot(y, 10).float()) for x, y in ((xt, yt), (xq, yq)))
    if not as_it_comes:
        return pairwise(model, rows, asked, "softmax", damping)
    with mock.patch.object(kronfluence, "_few_objects", nullcontext):
        return pairwise(model, rows, asked, "softmax", damping)


def traker_scores(model: nn.Module, xt: Any, yt: Any, xq: Any, yq: Any, width: int) -> np.ndarray:

    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    with tempfile.TemporaryDirectory() as folder:
        size = sum(p.numel() for p in model.parameters())
        projector = BasicProjector(
            size, width, 0, ProjectionType.normal, torch.device("cpu"), dtype=torch.float32, block_size=100
        )
        traker = TRAKer(
            model, "image_classification", len(xt), save_dir=folder, device="cpu", proj_dim=width, projector=projector,
            use_half_precision=False, logging_level=50,
        )  # fmt: skip
        state = model.state_dict()
        traker.load_checkpoint(state, model_id=0)
        for s in range(0, len(xt), 250):
            traker.featurize(batch=(xt[s : s + 250], yt[s : s + 250]), num_samples=len(xt[s : s + 250]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("q", state, 0, len(xq))
        traker.score(batch=(xq, yq), num_samples=len(xq))
        return np.array(traker.finalize_scores("q"), dtype=np.float64)


def dattri_scores(model: nn.Module, xt: Any, yt: Any, xq: Any, yq: Any, method: str) -> np.ndarray:
    from dattri.algorithm import influence_function, tracin
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    def loss(params: Any, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(torch.func.functional_call(model, params, x.unsqueeze(0)), y.unsqueeze(0))

    def whole(params: Any, batch: Any) -> torch.Tensor:
        x, y = batch
        logits = torch.func.functional_call(model, params, x)
        return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))

    rows = DataLoader(TensorDataset(xt, yt), batch_size=500, shuffle=False)
    asked = DataLoader(TensorDataset(xq, yq), batch_size=300, shuffle=False)
    if method == "graddot":
        task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
        attributor = tracin.TracInAttributor(task=task, weight_list=torch.ones(1), normalized_grad=False, device="cpu")
        return attributor.attribute(rows, asked).double().detach().numpy()
    if method == "ekfac":
        # the same function gives factors and gradients there, so the labels are the given ones, not drawn ones
        task = AttributionTask(loss_func=whole, model=model, checkpoints=model.state_dict(), target_func=whole)
        attributor = influence_function.IFAttributorEKFAC(task=task, device="cpu", damping=1e-3)
        attributor.cache(rows)
        return attributor.attribute(rows, asked).double().detach().numpy()
    task = AttributionTask(loss_func=whole, model=model, checkpoints=model.state_dict())
    attributor = influence_function.IFAttributorCG(task=task, device="cpu", regularization=1e-2, max_iter=10)
    attributor.cache(rows)
    return attributor.attribute(rows, asked).double().detach().numpy()


def captum_scores(model: nn.Module, xt: Any, yt: Any, xq: Any, yq: Any) -> np.ndarray:

    from captum.influence import TracInCP, TracInCPFast
    from torch.utils.data import TensorDataset

    del TracInCPFast
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "w.pt")
        torch.save(model.state_dict(), path)

        def load(net: nn.Module, name: str) -> float:
            net.load_state_dict(torch.load(name))
            return 1.0

        influence = TracInCP(
            model, TensorDataset(xt, yt), [path], load, loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=250,
            sample_wise_grads_per_batch=True,
        )  # fmt: skip
        return influence.influence((xq, yq)).double().detach().numpy().T


def peers(train: FeatureView, queries: FeatureView, truth: lds.Truth, head: WarmUp, *, first: bool) -> dict:
    xt, xq = (torch.from_numpy(head.inputs(v)) for v in (train, queries))
    yt, yq = (torch.from_numpy(v.targets.argmax(axis=1)) for v in (train, queries))
    calls = {
        "kronfluence ekfac, damping None": lambda m: kronfluence_scores(m, xt, yt, xq, yq, None),
        "kronfluence ekfac, damping None, collecting garbage": lambda m: kronfluence_scores(
            m, xt, yt, xq, yq, None, as_it_comes=True
        ),
        "kronfluence ekfac, damping 1e-8 (default)": lambda m: kronfluence_scores(m, xt, yt, xq, yq, 1e-8),
        "kronfluence ekfac, damping 1e-3": lambda m: kronfluence_scores(m, xt, yt, xq, yq, 1e-3),
        "traker (1 model, 512)": lambda m: traker_scores(m, xt, yt, xq, yq, 512),
        "traker (1 model, 128)": lambda m: traker_scores(m, xt, yt, xq, yq, 128),
        "dattri grad-dot": lambda m: dattri_scores(m, xt, yt, xq, yq, "graddot"),
        "dattri ekfac": lambda m: dattri_scores(m, xt, yt, xq, yq, "ekfac"),
        "dattri cg": lambda m: dattri_scores(m, xt, yt, xq, yq, "cg"),
        "captum TracInCP (1 checkpoint)": lambda m: captum_scores(m, xt, yt, xq, yq),
    }
    found = {}
    for label, call in calls.items():
        if label == "dattri cg" and not first:  # forty times as slow as the others
            continue
        try:
            best, values = np.inf, None
            for _ in range(REPEATS if "cg" not in label else 1):
                start = time.process_time()
                values = call(head.snapshots[-1].module())
                best = min(best, time.process_time() - start)
            assert values is not None
            if values.shape != (TRAIN, QUERIES):
                raise ValueError(f"shape {values.shape}")
            found[label] = {"lds": lds.lds(values, truth), "seconds": best}
        except Exception as error:
            found[label] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(label, found[label], flush=True)
    return found


def tuned(train: FeatureView, validation: FeatureView, seed: int) -> dict[str, float]:
    """Dampings chosen on other queries and other retrainings."""
    truth = lds.retrain(train, validation, SPEC, subsets=50, repeats=2, seed=900 + seed)
    head = warm_up(train, config(seed))
    last = replace(head, snapshots=head.snapshots[-1:])
    a, b = describe_light(last, train, training=True), describe_light(last, validation, training=False)
    grid = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    built = {
        "trak": lambda d: plugins.load("scorer", "trak", damping=d),
        "fisher given": lambda d: plugins.load("scorer", "fisher", damping=d, labels="given"),
        "fisher all": lambda d: plugins.load("scorer", "fisher", damping=d),
        "ekfac": lambda d: plugins.load("scorer", "ekfac", damping=d),
    }
    found = {}
    for name, build in built.items():
        found[name], table = lds.tune(build, grid, a, b, truth)
        print("tuned", name, found[name], {k: round(v, 3) for k, v in table.items()}, flush=True)
    return found


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return what an earlier run left in `path`, or make it: a run that stopped goes on."""
    if not path.exists():
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(value))
    return pickle.loads(path.read_bytes())  # noqa: S301  # our own file


def retrained(train: FeatureView, queries: FeatureView) -> tuple[lds.Truth, float]:
    start = time.process_time()
    truth = lds.retrain(train, queries, SPEC, subsets=100, repeats=5, seed=1)
    return truth, time.process_time() - start


def base(seed: int, truth: lds.Truth, damping: dict[str, float]) -> dict:
    train, queries, _ = world(0)
    head = warm_up(train, config(seed))
    found = ours(train, queries, truth, head, damping)
    for name, row in found.items():
        print("ours", name, row, flush=True)
    found.update(peers(train, queries, truth, head, first=seed == 0))
    return found


def main(out: Path, parts: Path) -> None:
    train, queries, validation = world(0)
    truth, retrain_seconds = kept(parts / "truth.pickle", lambda: retrained(train, queries))
    print("retraining", round(retrain_seconds, 1), "s, ceiling", round(truth.ceiling(), 3), flush=True)
    damping = kept(parts / "damping.pickle", lambda: tuned(train, validation, 0))
    seeds = range(int(os.environ.get("BASES", "3")))
    results = [kept(parts / f"base{s}.pickle", lambda s=s: base(s, truth, damping)) for s in seeds]
    table = {}
    for name in results[0]:
        rows = [r[name] for r in results if "lds" in r.get(name, {})]
        table[name] = (
            {
                "lds_mean": round(float(np.mean([r["lds"] for r in rows])), 4),
                "lds_sd": round(float(np.std([r["lds"] for r in rows])), 4),
                "models": len(rows),
                "seconds_median": round(float(np.median([r["seconds"] for r in rows])), 4),
            }
            if rows
            else results[0][name]
        )
    content = {
        "what": "LDS on scikit-learn digits: 1000 train, 300 queries, MLP 64-64-10, 100 halves x 5 seeds",
        "machine": "2 cores x86-64, one thread; seconds are processor seconds, the machine was shared",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "base_models": len(results),
        "ceiling": round(truth.ceiling(), 4),
        "retrain_seconds_500_models": round(retrain_seconds, 1),
        "damping_tuned_on_other_queries": damping,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "table": dict(sorted(table.items(), key=lambda item: -item[1].get("lds_mean", -9))),
    }
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(json.dumps(content["table"], indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(sys.argv[1]), Path(folder))
