"""A suite, as far as the report needs to know it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from gim_bench.settings.schema import Deviation


@runtime_checkable
class SuiteLike(Protocol):
    """A suite, as far as the report needs to know it."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> str:
        """The options of a command that ask for the suite, to be pasted into a shell."""

    @property
    def protocol(self) -> str: ...
    @property
    def published(self) -> Sequence[str]: ...
    @property
    def methods(self) -> Sequence[str]: ...
    @property
    def fresh_process(self) -> bool: ...
    @property
    def tuned(self) -> str | None:
        """The evidence for the rows' learning rates, in results/tuned."""

    @property
    def deviations(self) -> Sequence[Deviation]: ...
    @property
    def protocols(self) -> Mapping[str, Mapping[str, Any]]:
        """The tables `[protocols.<name>]`: further protocols than the package's, or changed."""

    @property
    def method(self) -> Mapping[str, Mapping[str, Any]]:
        """The tables `[method.<name>]`: the settings that a row has otherwise than the suite."""
