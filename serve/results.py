"""The lines of a scan, and their other formats: CSV for spreadsheets, Parquet for analysis.

A line is a verdict in its one JSON form plus four keys: `index` (place in the input order), `duplicate_of` (the source
of the first input with the same content, or null), `input` (size and time of change) and `evidence` (pictures).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guard import plugins
from guard.errors import UsageError
from guard.types import Verdict
from guard.verdict_json import to_dict
from serve.inputs import Input
from serve.run_dir import write_lines

FORMATS = ("jsonl", "csv", "parquet")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet run a cell; the last four are the full-width forms of the first four."""
_BATCH_ROWS = 2000


def record_of(index: int, entry: Input, verdict: Verdict, *, duplicate_of: str | None = None) -> dict[str, Any]:
    """Return the line of one input."""
    plain = _clean(to_dict(verdict))
    return {
        "index": index,
        **plain,
        "source": entry.source,
        "duplicate_of": duplicate_of,
        "input": entry.to_json(),
        "evidence": [],
    }


def duplicate_record(index: int, entry: Input, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of an input whose content was judged under another name; it cost nothing by itself."""
    own = {"index": index, "source": entry.source, "input": entry.to_json(), "evidence": []}
    return {**original, **own, "duplicate_of": original["source"], "timings_ms": {}}


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats named in a comma-separated list. Raises `UsageError` for one that is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(f"--format takes {', '.join(FORMATS)}, separated by commas; got {text!r}.")
    return names


def require_format(name: str) -> None:
    """Raise `MissingExtra` where a format needs a package that is not installed: before the scan, not after it."""
    if name == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise plugins.missing_extra("--format parquet", "pyarrow") from error


def columns(categories: Sequence[str]) -> dict[str, type]:
    """Return the columns of the table form and their Python types; one score per active rule."""
    fixed: dict[str, type] = {
        "index": int, "source": str, "decision": str, "flagged": str, "top_category": str, "top_score": float,
        "peak_seconds": float, "segments": int, "route": str, "route_reason": str, "slow_path": str, "error_code": str,
        "error_message": str, "rationale": str, "duration_seconds": float, "largest_gap_seconds": float,
        "degraded": bool, "duplicate_of": str, "sha256": str, "policy": str, "policy_version": str,
        "policy_hash": str,
    }  # fmt: skip
    return fixed | {f"score:{category}": float for category in categories}


def row_of(record: Mapping[str, Any], categories: Sequence[str]) -> dict[str, Any]:
    """Return one line as the flat row that `columns` describes."""
    judged = {name: score for name, score in record["categories"].items() if score["score"] is not None}
    top = max(judged, key=lambda name: judged[name]["score"], default=None)
    peak = max(record["segments"], key=lambda segment: segment["peak_score"], default=None)
    error, route = record["error"] or {}, record["route"] or {}
    media, coverage = record["media"] or {}, record["coverage"] or {}
    row = {
        "index": record["index"],
        "source": record["source"],
        "decision": record["decision"],
        "flagged": ";".join(name for name, score in record["categories"].items() if score["flagged"]),
        "top_category": top,
        "top_score": judged[top]["score"] if top else None,
        "peak_seconds": peak["peak_seconds"] if peak else None,
        "segments": len(record["segments"]),
        "route": route.get("path"),
        "route_reason": route.get("reason"),
        "slow_path": record.get("slow_path"),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "rationale": record["rationale"],
        "duration_seconds": media.get("decoded_duration_seconds") or media.get("declared_duration_seconds"),
        "largest_gap_seconds": coverage.get("largest_gap_seconds"),
        "degraded": record["degraded"],
        "duplicate_of": record["duplicate_of"],
        "sha256": record["sha256"],
        "policy": record["policy"]["name"],
        "policy_version": record["policy"]["version"],
        "policy_hash": record["policy"]["hash"],
    }
    return row | {f"score:{c}": judged[c]["score"] if c in judged else None for c in categories}


def escape_cell(value: object) -> object:
    """Return `value` so that no spreadsheet takes it for a formula: `=cmd()` becomes `'=cmd()`."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def write_csv(path: Path, records: Iterable[Mapping[str, Any]], categories: Sequence[str]) -> None:
    """Write the table form as CSV (UTF-8, RFC 4180), cells escaped against formula injection."""
    write_lines(path, _csv_lines(records, categories))


def write_parquet(path: Path, records: Iterable[Mapping[str, Any]], categories: Sequence[str]) -> None:
    """Write the table form as Parquet, in batches."""
    import pyarrow
    import pyarrow.parquet

    arrow = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, arrow[kind]) for name, kind in columns(categories).items()])
    partial = path.with_name(f"{path.name}.tmp")
    with pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        for batch in _batches(row_of(record, categories) for record in records):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    partial.replace(path)


def _clean(value: Any) -> Any:
    """Return `value` with the lone surrogates of undecodable file names escaped: they are no text, and no UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], float):
        return [_clean(item) for item in value]
    return value


def _csv_lines(records: Iterable[Mapping[str, Any]], categories: Sequence[str]) -> Iterator[str]:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(columns(categories)), lineterminator="\r\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: escape_cell(value) for name, value in row_of(record, categories).items()})
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the header of a run without inputs


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
