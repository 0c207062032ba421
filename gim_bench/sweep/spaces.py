"""The values of `--space NAME=…`: the settings that a sweep varies, and their ranges or choices."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.settings.schema import CellConfig
from gim_bench.settings.suites import setting_value

# The other tables say how trials are measured, which must be the same for all trials.
TABLES = ("augmentation", "encoder", "info_nce", "method", "training")
OF_ROW = ("augmentation", "encoder", "training")  # tables that a row may lay over the suite's
LOGARITHMIC_FROM = 10.0  # the upper end of a range by its lower end
FORMS = "training.learning_rate=1e-4..1e-2, training.epochs=2..8 or training.batch_size=16,32,64"
BETWEEN_CHOICES = re.compile(r",(?![^\[]*\])")  # no comma within brackets


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting, and the values to choose from."""

    name: str
    text: str  # as the user typed it, behind the "="
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution
    row: str | None = None  # the row whose own value is varied, in place of the suite's

    @property
    def ends(self) -> tuple[Any, ...]:
        """The two ends of a range, or all choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return tuple(self.distribution.choices)
        return self.distribution.low, self.distribution.high

    @property
    def is_list(self) -> bool:
        return isinstance(self.distribution, CategoricalDistribution)

    @property
    def setting(self) -> str:
        """The name under which `--set` takes the setting."""
        return self.name if self.row is None else f"method.{self.row}.{self.name}"

    def of_row(self, row: str, *, table: Mapping[str, Any]) -> "Axis":
        """The axis for a row with this table, `[method.<row>]`: a value of the row's own varies."""
        found: Any = table if self.name.partition(".")[0] in OF_ROW else {}
        for part in self.name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return self if found is None else replace(self, row=row)

    def override(self, value: float | str) -> str:
        """The value of `--set` that gives the setting this value."""
        return f"{self.setting}={value}"

    def point(self, config: CellConfig) -> float | str:
        """The cell's own value, as a parameter of a trial.

        Raises: ConfigError if the value is not within the space.
        """
        own = _setting(config, self.name)
        for candidate in self._candidates(own):
            if setting_value(str(candidate)) == own:
                return candidate
        raise ConfigError(
            f"--space {self.name}={self.text}: the suite's own value for {config.method.name}, "
            f"{own!r}, is not in it, and every sweep begins with the suite's own: widen the space, "
            f"or change the suite's own with --set {self.setting}={self.ends[0]}"
        )

    def _candidates(self, own: Any) -> Sequence[float | str]:
        """The parameters that may stand for the value."""
        if self.is_list:
            return self.ends
        number = int if isinstance(self.distribution, IntDistribution) else float
        is_within = isinstance(own, int | float) and self.ends[0] <= own <= self.ends[1]
        return [number(own)] if is_within else []


def parse_space(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of `--space`, by their names. Raises: ConfigError."""
    axes = {axis.name: axis for axis in map(_axis, texts)}
    if len(axes) < len(texts):
        raise ConfigError("--space names a setting twice: give each of them one range")
    return tuple(axes[name] for name in sorted(axes))


def _axis(text: str) -> Axis:
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise ConfigError(f"--space {text!r} is not NAME=VALUES, as in --space {FORMS}")
    if name.partition(".")[0] not in TABLES:
        raise ConfigError(
            unknown_name("table", name.partition(".")[0], known=TABLES, where=f"--space {text}")
            + "; the others say how trials are measured"
        )
    low, dots, high = values.partition("..")
    return _range(name, values, low, high) if dots else _choice(name, values)


def _range(name: str, text: str, *ends: str) -> Axis:
    try:
        low, high = (int(end) for end in ends)
    except ValueError:
        return _real_range(name, text, *ends)
    _check_ends(name, text, low, high)
    return Axis(name, text, IntDistribution(low, high, log=_is_logarithmic(low, high)))


def _real_range(name: str, text: str, *ends: str) -> Axis:
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        low = high = math.nan
    _check_ends(name, text, low, high)
    return Axis(name, text, FloatDistribution(low, high, log=_is_logarithmic(low, high)))


def _check_ends(name: str, text: str, low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise ConfigError(
            f"--space {name}={text}: a range is two numbers LOW..HIGH, the lower one first, as in "
            f"--space {FORMS}"
        )


def _is_logarithmic(low: float, high: float) -> bool:
    return low > 0 and high >= LOGARITHMIC_FROM * low


def _choice(name: str, text: str) -> Axis:
    choices = tuple(dict.fromkeys(word.strip() for word in BETWEEN_CHOICES.split(text)))
    if len(choices) == 1:
        raise ConfigError(
            f"--space {name}={text} leaves no choice: name several values, as in --space {FORMS}, "
            f"or give the single value with --set"
        )
    return Axis(name, text, CategoricalDistribution(choices))


def _setting(config: CellConfig, name: str) -> Any:
    """The cell's value of the setting; None if the setting is not set.

    Raises: ConfigError for a setting of another method.
    """
    section, *place = name.split(".")
    tables = config.as_dict()
    found = tables[section]
    if section == "method":
        row, *place = place
        if row != config.method.name:
            raise ConfigError(
                f"--space {name}: no setting of {config.method.name}; sweep {row} alone, "
                f"with --method {row}"
            )
        found |= found["options"] | {table: tables[table] for table in OF_ROW}
    for part in place:
        found = found.get(part) if isinstance(found, dict) else None
    return found
