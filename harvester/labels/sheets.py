"""CSV as people's spreadsheets write it: their separators, decimal commas, headers and blank rows.

Columns are told apart by whichever of `,` `;` and tab gives the most columns that are known; a header's capitals and
blanks do not count. Where columns are not separated by commas, a number may have one.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from harvester.errors import LabelError

SEPARATORS: Final = (",", ";", "\t")
DECIMAL_COMMA: Final = re.compile(r"-?\d+,\d+")
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
MOST_SNIFFED: Final = 1 << 16
NAMED_SEPARATOR: Final = re.compile(r"sep=(.)\r?\n?", re.I)
"""A first line by which Excel is told the separator."""


@dataclass(frozen=True)
class Header:
    """The columns of a table, as `known` spells them, and how they are found in its text.

    separator  between columns
    skipped    lines before the header
    """

    names: tuple[str, ...]
    separator: str
    skipped: int

    @classmethod
    def of(cls, text: str, known: Sequence[str]) -> "Header":
        """From the beginning of a table's text, its first lines at least."""
        named = NAMED_SEPARATOR.match(text)
        lines = text[named.end() if named else 0 :].splitlines()
        first = lines[0] if lines else ""
        tried = [_names(first, separator, known) for separator in ((named[1],) if named else SEPARATORS)]
        best = max(range(len(tried)), key=lambda at: len(set(tried[at]) & set(known)))
        return cls(tried[best], named[1] if named else SEPARATORS[best], 1 if named else 0)


def read_sheet(
    file: Path, known: Sequence[str], decimal_comma: bool = True
) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, and of each row that is not blank its line and its cells.

    A row with other than as many cells as columns comes with cells under the name "" (what is too much) or without some
    (what is missing). decimal_comma: whether 1,5 is a number where columns are not separated by commas.

    Raises LabelError where the file cannot be read, or is no CSV in UTF-8 or UTF-16.
    """
    text = text_of(file)
    header = Header.of(text, known)
    return header.names, list(_rows(text, header, file.name, decimal_comma and header.separator != ","))


def text_of(file: Path) -> str:
    """A table's text. Raises LabelError where it cannot be read."""
    try:
        content = file.read_bytes()
        return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except OSError as error:
        raise LabelError(f"{file.name}: cannot be read ({error.strerror or type(error).__name__})") from None
    except UnicodeDecodeError as error:
        raise LabelError(f"{file.name}: not in UTF-8 ({type(error).__name__}); save it as CSV in UTF-8") from None


def read_arrow(file: Path, known: Sequence[str], text: Sequence[str]) -> pa.Table:
    """A large table (.csv, .csv.gz) by pyarrow, without its blank rows; columns of `text` as strings.

    Raises what pyarrow raises, and LabelError for what is not in UTF-8 or UTF-16.
    """
    with unpacked(file) as stream:
        head = stream.read(MOST_SNIFFED)
    if head.startswith(UTF_16):
        source: Any = pa.BufferReader(text_of(file).encode())
        first = text_of(file)[:MOST_SNIFFED]
    else:
        source, first = unpacked(file), head.decode("utf-8-sig", "replace")
    header = Header.of(first, known)
    cells = re.split(r"[\r\n" + re.escape(header.separator) + "]", first)
    comma = header.separator != "," and any(DECIMAL_COMMA.fullmatch(cell.strip()) for cell in cells)
    table = pacsv.read_csv(
        source,
        pacsv.ReadOptions(use_threads=False, skip_rows=header.skipped + 1, column_names=list(header.names)),
        pacsv.ParseOptions(delimiter=header.separator),
        pacsv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()), decimal_point="," if comma else "."),
    )
    return _without_blank_rows(table.select([at for at, name in enumerate(header.names) if name]))


def unpacked(file: Path) -> Any:
    """pyarrow's stream of a file, unpacked where its name ends in .gz or .GZ: by itself it knows lower case alone."""
    packing: Any = "gzip" if file.name.lower().endswith(".gz") else None
    return pa.input_stream(str(file), compression=packing)


def _without_blank_rows(table: pa.Table) -> pa.Table:
    """Spreadsheets write rows of separators behind the last one."""
    blank = np.ones(len(table), bool)
    for column in table.columns:
        if not blank.any():
            return table
        nothing = np.asarray(column.is_null())
        if pa.types.is_string(column.type):
            nothing[blank] |= [not cell for cell in column.filter(pa.array(blank)).to_pylist()]
        blank &= nothing
    return table.filter(pa.array(~blank))


def _rows(text: str, header: Header, name: str, decimal_comma: bool) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=header.separator)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if reader.line_num > header.skipped + 1 and any(stripped):
                yield reader.line_num, _cells(stripped, header.names, decimal_comma)
    except csv.Error as error:
        raise LabelError(f"{name}: not a CSV file ({type(error).__name__}), line {reader.line_num}") from None


def _cells(cells: list[str], names: Sequence[str], decimal_comma: bool) -> dict[str, str]:
    if decimal_comma:
        cells = [cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
    row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
    beyond = "".join(cells[len(names) :])
    return row | ({"": beyond} if beyond else {})


def _names(line: str, separator: str, known: Sequence[str]) -> tuple[str, ...]:
    spelt = {name.casefold(): name for name in known}
    found = [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    return tuple(spelt.get(name.casefold(), name) for name in found)
