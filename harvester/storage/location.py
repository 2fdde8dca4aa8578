"""Where a store or a run lies: a folder on a disk or in an object store, read and written by the same code.

A path is a disk's, as is file:///path; s3://bucket/folder and gs://bucket/folder are object stores. What follows a ?
is for pyarrow's filesystem: s3://bucket/folder?region=eu-central-1&endpoint_override=minio.local:9000&scheme=http.
Keys are not part of a URI, which is logged; they come from the environment (AWS_ACCESS_KEY_ID, ...) or the machine.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from harvester.errors import NoRoomError, SettingsError, StoreError, one_line, without_secrets
from harvester.foreign_parquet import only_data
from harvester.storage.filesystem import connected, patiently

OBJECT_STORES: Final = ("s3", "gs")
HALF_A_URI: Final = re.compile("(file|s3|gs):|~")
"""As a path it would be a folder of that name."""
PART: Final = ".part"
"""How the name of a file ends that is still being written; it begins with a dot."""

SECONDS_OF_A_WRITE: Final = 3600.0
"""A file that is half written and that old has no writer any more."""


@dataclass(frozen=True)
class Location:
    """A folder or file: small, hashable, and the same for every worker that it travels to.

    base       absolute path on a disk, or scheme://bucket/key
    options    the URI's query, for the filesystem
    read_only  writing or removing it, or what lies in it, is a StoreError: a plan touches nothing
    """

    base: str
    options: str = ""
    read_only: bool = False

    @classmethod
    def of(cls, where: "Location | Path | str") -> "Location":
        """The location of a path, relative ones made absolute, or of a URI. Raises SettingsError."""
        if isinstance(where, Location):
            return where
        if isinstance(where, str) and "://" in where:
            return _from_uri(where)
        with suppress(RuntimeError):  # nobody's home is known by this name
            where = Path(where).expanduser()
        if HALF_A_URI.match(str(where)):
            raise SettingsError(f"{where}: no such place; want a path, s3://bucket/folder or gs://bucket/folder")
        return cls(str(Path(where).absolute()))

    def __truediv__(self, name: str) -> "Location":
        return replace(self, base=f"{self.base.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.base

    @property
    def name(self) -> str:
        """The last part: of a file its name."""
        return self.base.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The folder that holds it."""
        return replace(self, base=self.base.rstrip("/").rpartition("/")[0] or "/")

    @property
    def on_disk(self) -> bool:
        """False in an object store, where every request costs and a file appears whole when it is closed."""
        return "://" not in self.base

    @property
    def uri(self) -> str:
        """What `of` makes the same location of."""
        return f"{self.base}?{self.options}" if self.options else self.base

    @property
    def key(self) -> str:
        """Its name in its filesystem."""
        return self.base if self.on_disk else self.base.partition("://")[2]

    @property
    def filesystem(self) -> pa.fs.FileSystem:
        """pyarrow's, one per process and bucket."""
        bucket = "" if self.on_disk else "/".join(self.base.split("/")[:3])
        return connected(bucket, self.options)

    def is_file(self) -> bool:
        """Whether there is such a file. Raises StoreError where the disk or object store does not say."""
        try:
            return bool(self.filesystem.get_file_info(self.key).is_file)
        except OSError as error:
            raise StoreError(
                f"{self.parent}: cannot be asked ({one_line(error)}); see to the path or URI, the keys "
                "in the environment and the network"
            ) from error

    def files(self) -> list[str]:
        """Names of the files in the folder, sorted; none where there is no such folder."""
        return sorted(info.base_name for info in self._listed() if info.is_file)

    def folders(self) -> list[str]:
        """Names of the folders in the folder, sorted; none where there is no such folder."""
        return sorted(info.base_name for info in self._listed() if not info.is_file)

    def versions(self) -> dict[str, int | None]:
        """When each of the folder's files was last written."""
        return {info.base_name: info.mtime_ns for info in self._listed() if info.is_file}

    def sizes(self) -> dict[str, int]:
        """Bytes of the file, by its name, or of each file in the folder; empty where there is neither."""
        own = self.filesystem.get_file_info(self.key)
        return {info.base_name: info.size for info in ([own] if own.is_file else self._listed()) if info.is_file}

    def _listed(self) -> list[pa.fs.FileInfo]:
        return self.filesystem.get_file_info(pa.fs.FileSelector(self.key, allow_not_found=True))

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes of the file from `start`, fewer at its end. Raises OSError."""
        if not self.on_disk:
            return patiently(lambda: _read_at(_opened(self), count, start))
        with self.filesystem.open_input_file(self.key) as file:
            return _read_at(file, count, start)

    def read_bytes(self) -> bytes:
        """The whole file. Raises OSError."""

        def whole() -> bytes:
            with self.filesystem.open_input_file(self.key) as file:
                return file.read()

        return patiently(whole)

    def read_text(self) -> str:
        """The whole file, which is UTF-8. Raises OSError."""
        return self.read_bytes().decode()

    def read_json(self, **kinds: type) -> dict[str, Any] | None:
        """A small record. None where there is none and where it is damaged: a power loss leaves it empty or torn.

        kinds  what the record must hold, by name, and of which type; numbers.Real takes any number
        """
        try:
            return json_object(self.read_bytes(), **kinds) if self.is_file() else None
        except FileNotFoundError:  # somebody took it away in between
            return None

    def write_text(self, text: str) -> None:
        """Write the file in UTF-8, so that a reader sees all of it or nothing."""
        self.write_bytes(text.encode())

    def write_bytes(self, data: bytes) -> None:
        """Write the file so that a reader sees all of it or nothing."""
        with self.publish() as sink:
            sink.write(data)

    def read_table(
        self, schema: pa.Schema | None = None, columns: list[str] | None = None, filters: Any = None
    ) -> pa.Table:
        """A parquet file as a table: all of it, some columns, or those of a schema, cast to its types.

        Raises OSError; StoreError for what is no table, lacks a column of the schema or holds more than data.
        """
        try:
            table = only_data(
                patiently(lambda: pq.read_table(self.key, columns=columns, filters=filters, filesystem=self.filesystem))
            )
            return table if schema is None else cast_to(table, schema)
        except pa.ArrowException as error:
            raise StoreError(f"{self}: cannot be read as a table ({error}); make it again") from error

    def column_names(self) -> list[str]:
        """Those of a parquet file. Raises OSError; StoreError for what is no table."""
        try:
            return list(patiently(lambda: pq.read_schema(self.key, filesystem=self.filesystem)).names)
        except pa.ArrowException as error:
            raise StoreError(f"{self}: cannot be read as a table ({error}); make it again") from error

    def write_table(self, table: pa.Table, **options: Any) -> None:
        """A table as a parquet file, all of it or nothing. `options`: pyarrow.parquet.write_table's."""
        with self.publish() as sink:
            pq.write_table(table, sink, **options)

    def delete(self) -> None:
        """Remove the file; nothing happens where there is none."""
        self._require_writable()
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.key)

    def delete_folder(self) -> None:
        """Remove the folder and all in it; nothing happens where there is none."""
        self._require_writable()
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.key)

    def sweep(self) -> None:
        """Remove what killed writers left half written, at any depth; in an object store they leave nothing."""
        if not self.on_disk:
            return
        found = self.filesystem.get_file_info(pa.fs.FileSelector(self.key, allow_not_found=True, recursive=True))
        for info in found:
            half = info.is_file and info.base_name.startswith(".") and info.base_name.endswith(PART)
            if half and time.time() - (info.mtime_ns or 0) / 1e9 > SECONDS_OF_A_WRITE:
                self.filesystem.delete_file(info.path)

    def _require_writable(self) -> None:
        if self.read_only:
            raise StoreError(f"{self}: not touched, for it was opened for reading alone")

    @contextmanager
    def publish(self) -> Iterator[pa.NativeFile]:
        """A stream whose bytes become the file when the block ends well; else what was there stays.

        Raises OSError; of a full disk NoRoomError; where it is read-only StoreError.
        """
        self._require_writable()
        try:
            with self._published() as stream:
                yield stream
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoomError(
                f"{self.parent}: cannot be written ({os.strerror(error.errno)}); make room there, then start "
                "again with the same command: what is finished is kept"
            ) from error

    @contextmanager
    def _published(self) -> Iterator[pa.NativeFile]:
        """On a disk written aside and renamed; for an object store gathered, then uploaded."""
        if not self.on_disk:
            gathered = pa.BufferOutputStream()
            yield gathered
            self._upload(gathered.getvalue())
            return
        filesystem = self.filesystem
        filesystem.create_dir(self.parent.key, recursive=True)
        # Two that write the same file, one of them believed dead, must not write into each other's.
        aside = self.parent / f".{self.name}.{os.getpid()}-{uuid4().hex[:8]}{PART}"
        stream = filesystem.open_output_stream(aside.key)
        try:
            yield stream
            stream.close()
        except BaseException:
            with suppress(OSError):
                stream.close()
            with suppress(OSError):
                aside.delete()
            raise
        filesystem.move(aside.key, self.key)

    def _upload(self, data: pa.Buffer) -> None:
        """Put an object, all of it or nothing: until the last byte has come, an object store keeps what was there.

        Only whole data is uploaded, since pyarrow's streams know no way back: closing one publishes what it was given.
        """

        def put() -> None:
            with self.filesystem.open_output_stream(self.key) as stream:
                stream.write(data)

        patiently(put)


def json_object(text: bytes | str, **kinds: type) -> dict[str, Any] | None:
    """What is written as a JSON object; None for anything else, and where it lacks one of `kinds` (see `read_json`)."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(tree, dict) and all(isinstance(tree.get(name), kind) for name, kind in kinds.items())
    return tree if whole else None


@contextmanager
def writing(folder: Location) -> Iterator[None]:
    """An OSError in the block as a StoreError that says what to do about a full disk or a refusal."""
    try:
        yield
    except NoRoomError:
        raise
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else one_line(error)
        raise StoreError(
            f"{folder}: the store cannot be written ({cause}); make room or give another --store, then start "
            "again: finished shards are kept"
        ) from error


def forget() -> None:
    """Ask object stores anew for the files that are open: they may have been replaced."""
    _opened.cache_clear()


def cast_to(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, in its types. Raises pa.ArrowInvalid where one is missing or does not fit.

    Reading with the schema, as pyarrow does, would fill those that are missing with nulls.
    """
    if missing := sorted(set(schema.names) - set(table.column_names)):
        raise pa.ArrowInvalid(f"lacks {', '.join(missing)}")
    return table.select(schema.names).cast(schema)


def _from_uri(uri: str) -> Location:
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise SettingsError("the store's URI cannot be read; want s3://bucket/folder or gs://...") from None
    key_in_name = parts.scheme in OBJECT_STORES and ":" in parts.netloc  # the @ comes behind a slash of the key
    if key_in_name or "@" in parts.netloc + unquote(parts.query) or without_secrets(unquote(uri)) != unquote(uri):
        raise SettingsError(
            "a store's URI must not hold keys, for it is logged; give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if ".." in unquote(parts.path).split("/") or parts.fragment:
        raise SettingsError(f"{parts.scheme}://...: want a URI without .. and without #")
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Location(str(Path(unquote(parts.path)).absolute()))
    if parts.scheme not in OBJECT_STORES or not parts.netloc:
        raise SettingsError(f"{uri}: want a path, file:///path, s3://bucket/folder or gs://bucket/folder")
    return Location(f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), parts.query)


@lru_cache(maxsize=32)
def _opened(file: Location) -> pa.NativeFile:
    """An object's reader is kept: opening one asks for its size, which takes as long as reading."""
    return file.filesystem.open_input_file(file.key)


def _read_at(file: Any, count: int, start: int) -> bytes:
    """Any: pyarrow-stubs know read_at without its arguments."""
    data: bytes = file.read_at(count, start)
    return data
