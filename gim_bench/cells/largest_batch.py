"""The largest batch on which a cell can be trained."""

from contextlib import nullcontext

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import build, models_of, planned_steps, trainer_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.pipelines import has_workers
from gim_bench.contract import Split
from gim_bench.methods.compiling import compiled_anew
from gim_bench.training import capacity


def largest_batch(cell: Cell, bench: Bench) -> capacity.Capacity | None:
    """The largest batch that all models of the cell can be trained on; None if not asked for."""
    settings = cell.config.capacity
    if settings is None:
        return None
    if not planned_steps(cell, bench):
        return capacity.Capacity(None, "not measured: nothing is trained")
    if has_workers(cell):
        return capacity.Capacity(None, "not measured: other processes train the units")
    batches = bench.batches(cell, Split(cell.config.method.trains_on))
    batch = next(batches.epoch(1))

    def attempt(size: int) -> None:
        for model in models_of(cell, bench):
            with compiled_anew() if cell.config.training.compile else nullcontext():
                learner = build(cell, bench, target=model.target)
                trainer = trainer_of(cell, learner, device=bench.device)
                capacity.take_steps(trainer, capacity.repeated(batch, size))
            del learner, trainer  # before the next model's

    return capacity.largest_batch(
        attempt, start=batches.batch_size, up_to=settings.up_to, device=bench.device
    )
