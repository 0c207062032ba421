"""Checks are made as from a clean checkout here, too, so that they judge what they are fed."""

from tests.check.conftest import clean_checkout

__all__ = ["clean_checkout"]
