"""Checksums of JSON values, and tables that carry their own."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"  # a sealed table's last entry: of all others


def digest(value: Any) -> str:
    """sha256 of a JSON value, in whatever order its tables are."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its seal, by which it is known whether it was altered since."""
    content = {name: value for name, value in table.items() if name != SEAL}
    return {**content, SEAL: digest(content)}
