"""Checksums of files and of JSON values, and tables that carry their own checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"  # last entry of a sealed table: the checksum of all other entries


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hexadecimal digits. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of entries in its tables."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its seal, which shows whether the table was altered later."""
    content = {name: value for name, value in table.items() if name != SEAL}
    return {**content, SEAL: digest(content)}


def unsealed(content: bytes) -> dict[str, Any]:
    """The entries of a sealed table without the seal, from JSON.

    Raises: ValueError if the table was altered or cut off, or was never sealed.
    """
    try:
        table = json.loads(content)
        whole = table == sealed(table)
    except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON, or no table
        whole = False
    if not whole:
        raise ValueError("the seal is broken")
    return {name: value for name, value in table.items() if name != SEAL}
