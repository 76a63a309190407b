"""A table of images: CSV or parquet with the columns path, label [, split, is_query, is_gallery, group]."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hetero.data.source import Record, check_split, group_of, one_line, read_bytes
from hetero_devices.errors import DataError, require

_REQUIRED = ("path", "label")
_OPTIONAL = ("split", "is_query", "is_gallery", "group")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Row = dict[str, Any]


class ManifestSource:
    """Paths are relative to the manifest's folder and must stay inside it, links included."""

    def __init__(self, path: Path, group_pattern: str | None = None) -> None:
        self.path = path
        self.group_pattern = group_pattern

    def digest(self) -> str:
        """Over the table and the sizes and modification times of the files it names."""
        content = hashlib.sha256(read_bytes(self.path))
        for record in self.records():
            stat = (self.path.parent / record.key).stat()
            content.update(f"{record.key}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return f"manifest {self.path.parent.resolve()} {content.hexdigest()} {self.group_pattern}"

    def records(self) -> Sequence[Record]:
        """One record a row, in order. DataError names the row that is wrong."""
        rows = _read_parquet(self.path) if self.path.suffix.lower() == ".parquet" else _read_csv(self.path)
        if not rows:
            raise DataError(f"{self.path} has no rows")
        _check_columns(self.path, list(rows[0]))
        records = [
            self._record(row, f"{self.path}, row {number}") for number, row in enumerate(rows, start=1)
        ]
        _check_unique(self.path, records)
        return records

    def _record(self, row: Row, where: str) -> Record:
        key, label = _text(row["path"]), _text(row["label"])
        if not key or not label:
            raise DataError(f"{where}: {'path' if not key else 'label'} is empty")
        file = _inside(self.path.parent, key, where)
        split = _text(row.get("split"))
        return Record(
            key,
            label,
            partial(read_bytes, file),
            check_split(split, where) if split else None,
            _group(row, where) if "group" in row else group_of(key, self.group_pattern),
            _flag(row, "is_query", where),
            _flag(row, "is_gallery", where),
        )


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[Row] = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}") from None
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():  # DictReader's marks for too many and too few fields
            raise DataError(f"{path}, row {number}: the number of fields differs from the header's")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    parquet = require("pyarrow.parquet", "parquet")
    arrow = require("pyarrow", "parquet")
    try:
        names = set(parquet.read_schema(path).names)
        columns = [name for name in (*_REQUIRED, *_OPTIONAL) if name in names]
        _check_columns(path, columns)
        rows: list[Row] = parquet.read_table(path, columns=columns).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}") from None
    return rows


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for name in _REQUIRED:
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}: it has {', '.join(columns) or 'none'}")


def _check_unique(path: Path, records: Sequence[Record]) -> None:
    seen: set[str] = set()
    for number, record in enumerate(records, start=1):
        if record.key in seen:
            raise DataError(f"{path}, row {number}: {record.key} is listed twice")
        seen.add(record.key)


def _inside(folder: Path, name: str, where: str) -> Path:
    """The file called `name`; DataError when it is missing or leads out of `folder`, also by a link."""
    root = folder.resolve()
    try:
        file = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise DataError(f"{where}: {name!r} is no usable path") from None
    if Path(name).is_absolute() or not file.is_relative_to(root):
        raise DataError(f"{where}: {name!r} leads out of {folder}: paths must stay beside the manifest")
    if not file.is_file():
        raise DataError(f"{where}: {name!r} does not exist in {folder}")
    return file


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _group(row: Row, where: str) -> int:
    try:
        return int(_text(row["group"]))
    except ValueError:
        raise DataError(f"{where}: group {row['group']!r} is no whole number") from None


def _flag(row: Row, name: str, where: str) -> bool | None:
    """The boolean of a cell; None without such a column; an empty cell is no."""
    if name not in row:
        return None
    try:
        return _FLAGS[_text(row[name]).lower() or "no"]
    except KeyError:
        raise DataError(f"{where}: {name} is {row[name]!r}, expected true or false") from None
