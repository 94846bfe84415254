"""The score file of a run: `scores.parquet`, one line per row of the pool, one column per query group."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_filter.shards import atomic_write
from data_filter.types import ScoreMatrix
from guard.plugins import missing_extra


def require_parquet() -> None:
    """Raise `MissingExtra` now rather than after an hour of scoring."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("Writing scores.parquet", "pyarrow") from error


def write(path: Path, scores: ScoreMatrix, facts: Mapping[str, Sequence[Any]]) -> None:
    """Write ids, facts and scores (`score/<group>`), all or nothing. Equal scores give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"id": list(scores.ids), **{name: list(values) for name, values in facts.items()}}
    for j, name in enumerate(scores.columns):
        columns[f"score/{name}"] = np.ascontiguousarray(scores.values[:, j])
    table = pa.table(columns).replace_schema_metadata({"scorer": scores.scorer, "signed": str(scores.signed)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic_write(path, buffer.getvalue())


def read(path: Path) -> ScoreMatrix:
    """Read the scores back."""
    require_parquet()
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    names = [name for name in table.column_names if name.startswith("score/")]
    values = np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32)
    return ScoreMatrix(
        ids=tuple(table["id"].to_pylist()),
        columns=tuple(name.removeprefix("score/") for name in names),
        values=values,
        scorer=meta["scorer"],
        signed=meta["signed"] == "True",
    )
