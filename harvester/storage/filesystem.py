"""pyarrow's filesystems, made to outlast an object store's bad minutes."""

import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.fs

from harvester.errors import SettingsError

T = TypeVar("T")

TRIES: Final = 14
"""Of a request that an object store answers with 503 or not at all, ever further apart: two to three minutes."""
PATIENCE_S: Final = 150.0
"""For requests that fail in a way of which pyarrow's own tries know nothing."""
PASSING: Final = re.compile(
    "AWS Error (INTERNAL_FAILURE|SLOW_DOWN|SERVICE_UNAVAILABLE|NETWORK_CONNECTION|REQUEST_TIMEOUT|.*HTTP status 5)"
)


@lru_cache(maxsize=16)
def connected(bucket: str, options: str) -> pa.fs.FileSystem:
    """The filesystem of a bucket, or of this machine for ""."""
    if not bucket:
        return pa.fs.LocalFileSystem()
    try:
        plain: pa.fs.FileSystem = pa.fs.FileSystem.from_uri(f"{bucket}?{options}" if options else bucket)[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SettingsError(f"{bucket}: {error}; correct what follows the ? of the store's URI") from None
    return _patient(plain, dict(parse_qsl(options))) if isinstance(plain, pa.fs.S3FileSystem) else plain


def _patient(plain: pa.fs.S3FileSystem, options: Mapping[str, str]) -> pa.fs.S3FileSystem:
    """The S3 filesystem that a URI gives, but one that outlasts a store's bad minutes: a URI cannot say that."""
    words = {"true": True, "1": True, "false": False, "0": False}
    given = {
        name: words.get(text.lower(), text) if name.startswith(("allow_", "force_", "check_")) else text
        for name, text in options.items()
    }
    own: dict[str, Any] = {
        "region": plain.region,
        "retry_strategy": pa.fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        "allow_delayed_open": True,  # a small file is then one request, not three
    }
    return pa.fs.S3FileSystem(**(given | own))


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` gives, tried again for a while where an object store is busy.

    An answer of 503 may be longer than the bytes that were asked for: pyarrow then fails at once with
    INTERNAL_FAILURE instead of trying again.
    """
    deadline, pause = time.monotonic() + PATIENCE_S, 0.25
    while True:
        try:
            return ask()
        except OSError as error:
            if time.monotonic() + pause > deadline or not PASSING.search(str(error)):
                raise
        time.sleep(pause)
        pause = min(2 * pause, 20.0)
