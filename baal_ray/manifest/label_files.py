"""Label files: their rows as text, and all faults in them."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from baal_ray import storage
from baal_ray.errors import LabelError
from baal_ray.storage.bounded_rows import MOST_TEXT
from baal_ray.storage.parquet import open_parquet, utf8_texts
from baal_ray.storage.redaction import redacted
from baal_ray.storage.table_files import TableFile

Row = tuple[str, dict[str, Any]]  #: the place of a row in its file, and its values by column

COLUMNS = ("id", "label", "labelled_by")
_NEEDED = ("id", "label")

# Beginnings by which a spreadsheet takes a value for a formula, which could run a command. In an
# exported file an apostrophe stands before them, which is taken off when the file is read.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r\n]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_FAULTS = 20
_ROWS_AT_A_TIME = 100_000
_MOST_CLASSES = 5


class Answer(NamedTuple):
    """A row of a label file, with its place in the file. A missing label is None."""

    where: str
    id: str
    label: str | None
    labelled_by: str | None


def read_answers(path: str, faults: list[str]) -> Iterator[Answer]:
    """Yield the valid rows of a file that annotators filled in. Faults in others are noted.

    Raises:
        LabelError: If the name has none of the known extensions, or the text is not UTF-8.
        StorageError: If the file cannot be read, or is not a complete Parquet file.
    """
    return answers(_READERS[extension_of(path)](path, faults), faults)


def read_ids(path: str) -> list[str]:
    """Return the ids in a file that has at least a column of ids, each of them unique.

    Raises:
        LabelError: If anything is wrong with the file. The error lists every fault.
        StorageError: If the file cannot be read, or is not a complete Parquet file.
    """
    faults: list[str] = []
    rows = _READERS[extension_of(path)](path, faults, ("id",))
    ids_alone = ((where, {"id": row["id"]}) for where, row in rows)
    ids = [answer.id for answer in answers(ids_alone, faults)]
    refuse(path, faults)
    return ids


def extension_of(path: str) -> str:
    """Return which of the known extensions a file's name has.

    Raises:
        LabelError: If it has none of them.
    """
    for extension in _READERS:
        if path.lower().endswith(extension):
            return extension
    raise LabelError(
        redacted(path), [f"the name of the file must end in one of {', '.join(_READERS)}"]
    )


def _csv_rows(path: str, faults: list[str], needed: Sequence[str] = _NEEDED) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in reader:
            # A quoted value may have line breaks in it, so a row is identified by its first line.
            where, line = f"line {line}", reader.line_num + 1
            if not any(row):
                continue
            if not header:
                header = row
                if not _has_columns(header, where, faults, needed):
                    return
            elif len(row) == len(header):
                yield where, dict(zip(header, map(_without_apostrophe, row), strict=True))
            else:
                found = f"{len(row)} values where the header has {len(header)}"
                faults.append(f"{where}: {found}; a value with a comma in it needs quotes")
    except csv.Error as error:
        faults.append(f"line {line}: {error}; the lines after it were not read")
    if not header:
        _has_columns(header, "line 1", faults, needed)


def neutralised(value: str | None) -> str | None:
    """Return a value for a CSV file that no spreadsheet takes for a formula."""
    return f"'{value}" if value is not None and _FORMULA.match(value) else value


def _without_apostrophe(value: str) -> str:
    return value[1:] if _NEUTRALISED.match(value) else value


def _json_rows(path: str, faults: list[str], needed: Sequence[str] = _NEEDED) -> Iterator[Row]:
    for number, text in enumerate(_text(path).split("\n"), start=1):
        where = f"line {number}"
        try:
            row = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            faults.append(f"{where}: this is not JSON: {error}")
            continue
        if isinstance(row, dict):
            if _has_columns(list(row), where, faults, needed):
                yield where, row
        elif text.strip():
            faults.append(f"{where}: this is not a JSON object with {' and '.join(needed)}")


def _parquet_rows(path: str, faults: list[str], needed: Sequence[str] = _NEEDED) -> Iterator[Row]:
    return table_rows(TableFile(uri=path), faults, needed)


def table_rows(
    file: TableFile, faults: list[str], needed: Sequence[str] = _NEEDED, *, of: str = ""
) -> Iterator[Row]:
    """Yield the rows of a Parquet file. If there are several files, `of` says which this is."""
    with open_parquet(file.uri) as parquet:
        names = [*parquet.schema_arrow.names, *file.values]
    if not _has_columns(names, f"{of}schema", faults, needed):
        return
    row = 0
    for rows in file.stored_rows(COLUMNS, _ROWS_AT_A_TIME):
        with utf8_texts(file.uri):
            plain = rows.to_pylist()
        for values in plain:
            row += 1
            yield f"{of}row {row}", values


def _has_columns(
    names: Sequence[str], where: str, faults: list[str], needed: Sequence[str]
) -> bool:
    """Return whether each needed column is there exactly once. If not, that is noted."""
    wrong = [name for name in needed if list(names).count(name) != 1]
    for name in wrong:
        count = "occurs more than once" if name in names else "is missing"
        faults.append(
            f"{where}: column {name!r} {count}; columns found: {', '.join(names) or 'none'}"
        )
    return not wrong


def _text(path: str) -> str:
    try:
        return storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        raise LabelError(redacted(path), [told]) from error


def answers(rows: Iterable[Row], faults: list[str]) -> Iterator[Answer]:
    """Yield the valid rows, each with a new id, as text. Faults in others are noted."""
    seen: set[str] = set()
    for where, row in rows:
        texts = [as_text(row.get(name)) for name in COLUMNS]
        wrong = [name for name, text in zip(COLUMNS, texts, strict=True) if text is None]
        id, label, labelled_by = (text or "" for text in texts)
        faults += [f"{where}: {name} {_unfit(row[name])}" for name in wrong]
        if not id and "id" not in wrong:
            faults.append(f"{where}: the id is empty")
        elif id in seen:
            faults.append(f"{where}: id {id!r} occurs in an earlier row; each id must be unique")
        elif not wrong:
            seen.add(id)
            yield Answer(where, id, label or None, labelled_by or None)


def as_text(value: object) -> str | None:
    """Return a value as text ("" for null), or None if it is no short text and no integer."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # JSON can contain half of a surrogate pair, which is not text and which Arrow refuses.
    fits = isinstance(value, str) and len(value) <= MOST_TEXT and not _SURROGATE.search(value)
    return str(value) if fits else None


def _unfit(value: object) -> str:
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return f"has {len(value)} characters; it must have at most {MOST_TEXT}"
    return f"is {value!r}; it must be a string"


def check_class(row: Answer, classes: Sequence[str], faults: list[str]) -> None:
    """Note a label that is missing or is not one of the classes."""
    if row.label is None:
        faults.append(f"{row.where}: {row.id!r} has no label")
    elif row.label not in classes:
        allowed = ", ".join(map(repr, classes[:_MOST_CLASSES]))
        more = len(classes) - _MOST_CLASSES
        allowed += f" and {more} more" if more > 0 else ""
        faults.append(f"{row.where}: label {row.label!r} is not one of the classes {allowed}")


def refuse(path: str, faults: Sequence[str]) -> None:
    """Raise LabelError if there are faults."""
    if faults:
        more = len(faults) - _MOST_FAULTS
        raise LabelError(
            redacted(path), [*faults[:_MOST_FAULTS], *[f"and {more} more"] * (more > 0)]
        )


_READERS = {".csv": _csv_rows, ".parquet": _parquet_rows}
_READERS |= {".jsonl": _json_rows, ".ndjson": _json_rows}
