"""What names settings, and whatever follows from them: a hash that is alike on every machine."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def settings_hash(*parts: Any) -> str:
    """Twelve hex digits that name settings, tables' hashes and numbers, alike on every machine."""
    text = json.dumps([as_tree(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_tree(part: Any) -> Any:
    """Settings as a tree that JSON takes; anything else as it is."""
    return part.model_dump(mode="json") if isinstance(part, BaseModel) else part
