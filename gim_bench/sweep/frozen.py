"""Finished cells whose encoders are frozen: their features and labels, for probes of a sweep."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model
from gim_bench.cells.cell import Cell
from gim_bench.cells.frozen import frozen
from gim_bench.contract import Split, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import ConfigError
from gim_bench.probing.classifiers import Labelled
from gim_bench.probing.probe import curve_name, labelled
from gim_bench.probing.questions import Question, question
from gim_bench.probing.reading import Probe, Reader, accuracies
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.records.statistics import finished_at
from gim_bench.settings.probing import ProbeSettings
from gim_bench.sweep.studies import WAIT_SECONDS


@contextmanager
def alone_at(cell: Cell, runs: RunsFolder) -> Iterator[None]:
    """Within the block no other process runs or sweeps the cell; waits until the cell is free."""
    while True:
        method = cell.config.method.name
        with runs.claimed(cell.suite, method, seed=cell.seed, key=cell.key) as claim:
            if claim is not None:
                yield
                return
        time.sleep(WAIT_SECONDS)


class Frozen:
    """A model of a finished cell; the weights are read only when features are missing."""

    def __init__(
        self, cell: Cell, record: Record, model: Model, bench: Bench, *, runs: RunsFolder
    ) -> None:
        assert cell.config.probe is not None
        self.cell = cell
        self.record = record
        self.model = model
        self.bench = bench
        self.runs = runs
        self.settings: ProbeSettings = cell.config.probe
        self.encoder = f"{model.prefix}encoder"
        self.encoder_sha256 = runs.encoder_sha256(record, name=self.encoder)

    @property
    def identity(self) -> dict[str, str | int]:
        """Everything that the features depend on."""
        return {
            "key": self.record.key,
            "suite": self.record.suite,
            "method": self.record.method,
            "seed": self.record.seed,
            "data_sha256": self.cell.data_sha256,
            "encoder_sha256": self.encoder_sha256,
        }

    def newest(self) -> Record:
        """The record as it is on disk now.

        Raises: ConfigError if the cell was run again or removed since its features were read.
        """
        swept = self.record
        found = self.runs.find(swept.suite, swept.method, seed=swept.seed, key=swept.key)
        if (
            found is None
            or finished_at(found) != finished_at(swept)
            or self.runs.encoder_sha256(found, name=self.encoder) != self.encoder_sha256
        ):
            raise ConfigError(
                f"cannot keep the sweep of {swept.suite}/{swept.method} seed {swept.seed}: the "
                f"cell in {self.runs.folder_of(swept)} was run again or removed in the meantime; "
                f"sweep the cell again once its run is done"
            )
        return found

    @cached_property
    def _reader(self) -> Reader:
        learner = frozen(self.cell, self.record, self.model, self.bench, runs=self.runs)
        return Reader(
            learner,
            precision=self.settings.precision or self.cell.config.training.precision,
            title=self.model.name,
            progress=self.bench.progress,
        )

    def modules(self, target: Target, *, all_modules: bool) -> list[str]:
        """The modules that were probed for the target, lowest first, or the top module alone."""
        curves = self.record.probe_curves
        names = (name.rpartition("/")[2] for name in curves)
        found = [
            module for module in dict.fromkeys(names) if curve_name(target.name, module) in curves
        ]
        return found if all_modules else found[-1:]

    def tasks(self, *, all_modules: bool) -> dict[tuple[Question, str], Labelled]:
        """Features and labels by question and module; missing features are extracted and kept."""
        train = self.bench.batches(self.cell, Split.TRAIN, whole=self.settings.whole_recordings)
        wanted = [
            (question(train, target, settings=self.settings), module)
            for target in self.model.probed
            for module in self.modules(target, all_modules=all_modules)
        ]
        found = {}
        for asked, module in wanted:
            kept = self.runs.read_features(
                self.record, name=_file_of(asked, module), encoder=self.encoder_sha256
            )
            if kept is not None:
                found[asked, module] = kept
        missing = [place for place in wanted if place not in found]
        if missing:
            found |= self._extracted(train, missing)
        return {
            (asked, module): labelled(found[asked, module].to(self.bench.device), asked)
            for asked, module in wanted
        }

    def _extracted(
        self, train: Batches, missing: Sequence[tuple[Question, str]]
    ) -> dict[tuple[Question, str], Float[Tensor, "n d"]]:
        """The missing features, from one pass over the training split; they are kept on disk."""
        questions = list(dict.fromkeys(asked for asked, _ in missing))
        modules = {module for _, module in missing}
        features = self._reader.features_of(train, questions, modules=modules)
        for asked, module in missing:
            self.runs.save_features(
                self.record,
                features[asked, module],
                name=_file_of(asked, module),
                encoder=self.encoder_sha256,
            )
        return {place: features[place] for place in missing}

    def test_accuracies(self, probes: Sequence[Probe]) -> dict[str, float]:
        """Percent correct, by metric and module, from one pass over the test set."""
        test = self.bench.batches(self.cell, Split.TEST, whole=self.settings.whole_recordings)
        return accuracies(self._reader.predictions(test, probes, self.model.probed))


def _file_of(asked: Question, module: str) -> str:
    return f"{asked.target.name}-{module}"
