"""Sealed tables: whole ones come back without the seal, others are refused."""

import json

import pytest

from gim_bench.seals import sealed, unsealed

TABLE = {"accuracy": 61.5, "files": {"encoder": "0" * 64}}
WHOLE = json.dumps(sealed(TABLE)).encode()


def test_a_whole_table_comes_back():
    assert unsealed(WHOLE) == TABLE


@pytest.mark.parametrize(
    "content",
    [
        WHOLE.replace(b"61.5", b"91.5"),
        WHOLE[:-5],
        json.dumps(TABLE).encode(),
        b"[1]",
        b"1",
        b"[" * 100_000,
        b"\xff",
    ],
    ids=["altered", "cut off", "never sealed", "a list", "a number", "nested", "no text"],
)
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError, match="the seal is broken"):
        unsealed(content)
