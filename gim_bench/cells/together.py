"""Settings of a row that do not go together: each is refused in one line."""

from dataclasses import dataclass

import torch

from gim_bench.cells.data_parallel import processes_of
from gim_bench.cells.shares import devices_of
from gim_bench.contract import GradientFlow, Learner, Setup
from gim_bench.encoders.tiles import TiledEncoder
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.methods.stack import StackLearner, partition
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.augmentations import LargeSettings
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import (
    BufferSettings,
    CellConfig,
    MethodSettings,
    Recipe,
    Recompute,
    Schedule,
    Suite,
    TrainingSettings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of a suite in its surroundings, and where its settings stand."""

    kind: type[Learner]
    setup: Setup
    suite: Suite
    recipe: Recipe
    method: MethodSettings
    origin: str


def check_together(case: Case) -> None:
    """Method, encoder, schedule and recomputing go together. Raises: ConfigError."""
    _check_pieces(case)
    _check_units(case)
    _check_tiles(case)
    _check_pipeline(case)
    if case.recipe.training.processes > 1 and case.setup.gradient_flow is not GradientFlow.NONE:
        _check_processes(case)


def check_devices(config: CellConfig, device: torch.device, *, suite: str) -> None:
    """Each process that shares a batch has a GPU of its own. Raises: ConfigError."""
    processes, devices = processes_of(config), devices_of(device)
    origin = f"suite {suite}, [method.{config.method.name}]"
    if device.type == "cuda" and processes > max(1, devices):
        raise ConfigError(
            f"{origin}: training.processes = {processes} needs a GPU for each process, and there "
            f"are {devices} with --device {device}: use --device cuda for all, or fewer processes"
        )


def check_kept_outputs(config: CellConfig, *, suite: str) -> None:
    """Outputs are kept of modules that are trained before those above. Raises: ConfigError."""
    method = config.method
    one_by_one = method.schedule is Schedule.SEQUENTIAL or method.only is not None
    is_isolated = GradientFlow(method.gradient_flow) is GradientFlow.ISOLATED
    if config.training.kept_outputs is not None and is_isolated and not one_by_one:
        raise ConfigError(
            f"suite {suite}, [method.{method.name}]: training.kept_outputs is for modules that are "
            f"trained one after the other, and the schedule of {method.name!r} is "
            f'{method.schedule.value!r}: set schedule = "sequential", or leave kept_outputs out'
        )


def _check_pieces(case: Case) -> None:
    """A batch is encoded in pieces where its examples do not depend on each other."""
    setup, method, origin = case.setup, case.method, case.origin
    if method.recompute is Recompute.PIECES and not setup.encoder.examples_are_independent(
        setup.encoder_options
    ):
        raise ConfigError(
            f'{origin}: recompute = "pieces" encodes a part of the batch at a time, and in the '
            f"encoder {setup.encoder_options.kind!r} examples depend on each other (as with batch "
            f'norm): use "layers" or "nothing"'
        )


def _check_units(case: Case) -> None:
    """Modules are grouped where flow is isolated, into no more units than modules."""
    setup, method, origin = case.setup, case.method, case.origin
    if method.units is None:
        return
    if setup.gradient_flow is not GradientFlow.ISOLATED or not issubclass(case.kind, StackLearner):
        raise ConfigError(
            f"{origin}: units = {method.units} groups the modules of a method with isolated "
            f"gradient flow, and the flow of {method.like!r} is {setup.gradient_flow}: leave out "
            f'units, or set gradient_flow = "isolated" where the method allows it'
        )
    modules = len(setup.rows) - case.kind.left_out
    if method.units > modules:
        raise ConfigError(
            f"{origin}: units = {method.units}, but the encoder {setup.encoder_options.kind!r} of "
            f"{method.like!r} has {modules} modules: use {modules} or less"
        )


def _check_tiles(case: Case) -> None:
    """What is encoded tile by tile needs an encoder whose tiles are those of the whole."""
    setup, method, origin = case.setup, case.method, case.origin
    streams = case.recipe.training.kept_outputs is not None and isinstance(
        case.recipe.augmentation, LargeSettings
    )
    wanted = 'recompute = "tiles"' if method.recompute is Recompute.TILES else ""
    wanted = wanted or ("training.kept_outputs of large examples" if streams else "")
    if not wanted:
        return
    kept = case.recipe.training.kept_outputs
    if streams and kept is not None and kept.epochs > 1:
        raise ConfigError(
            f"{origin}: training.kept_outputs.epochs = {kept.epochs}, but outputs over whole "
            f"images and recordings serve all epochs: leave it out"
        )
    if not issubclass(setup.encoder, TiledEncoder):
        raise ConfigError(
            f"{origin}: {wanted} encodes tiles of an image or a recording, and those of the "
            f"encoder {setup.encoder_options.kind!r} differ from the whole's: use the "
            f"encoder pyramid for images and conv_gru for speech, or leave it out"
        )
    if not issubclass(case.kind, StackLearner) or case.kind.sees_lower_grids or method.uses_labels:
        raise ConfigError(
            f"{origin}: {wanted} is for methods without labels that look at one module at a time, "
            f"and {method.like!r} is none of them: leave it out"
        )


def _check_pipeline(case: Case) -> None:
    """Processes of their own train units that hand activations on, and are not looked into."""
    method, origin = case.method, case.origin
    training = case.recipe.training
    if method.schedule is not Schedule.PIPELINE:
        if case.kind.traits.schedule is None:
            _check_needs_no_pipeline(case)
        return
    if method.gradient_flow != GradientFlow.ISOLATED:
        return
    if not issubclass(case.kind, StackLearner):
        raise ConfigError(
            f'{origin}: with schedule = "pipeline" units hand activations on, and those of '
            f'{method.like!r} hand on none: use "interleaved"'
        )
    if case.suite.inside is not None:
        raise ConfigError(
            f"{origin}: [inside] looks at all modules after every epoch, and with schedule = "
            f'"pipeline" other processes have them: leave [inside] out, or use "interleaved"'
        )
    if training.buffer is not None:
        _check_buffer(case, training.buffer)


def _check_needs_no_pipeline(case: Case) -> None:
    """Settings of a pipeline are given to a pipeline."""
    method, origin = case.method, case.origin
    training = case.recipe.training
    for name, purpose in (
        ("workers", "shares units out to the processes"),
        ("buffer", "is between the processes"),
    ):
        value = getattr(training, name)
        if value is None:
            continue
        said = "" if isinstance(value, Settings) else f" = {value}"
        raise ConfigError(
            f"{origin}: training.{name}{said} {purpose} of a pipeline, and the schedule of "
            f'{method.name!r} is {method.schedule.value!r}: set schedule = "pipeline", or leave '
            f"{name} out"
        )


def _check_buffer(case: Case, buffer: BufferSettings) -> None:
    """Workers that do not wait have no common moment, at which held-out losses could be taken."""
    setup, method, origin = case.setup, case.method, case.origin
    training = case.recipe.training
    if training.held_out:
        raise ConfigError(
            f"{origin}: training.held_out = {training.held_out} asks for losses after every epoch, "
            f"and with training.buffer modules are at different steps: leave one of them out"
        )
    assert issubclass(case.kind, StackLearner)
    modules = len(setup.rows) - case.kind.left_out
    parted = partition(modules, GradientFlow(method.gradient_flow), units=method.units)
    units = [unit.name for unit in parted]
    for unit in buffer.slowdown:
        if unit not in units:
            where = f"{origin}: training.buffer.slowdown"
            raise ConfigError(unknown_name("unit", unit, known=units, where=where))


def _check_processes(case: Case) -> None:
    """Processes share batches that can be divided, and are not looked into."""
    setup, method, origin = case.setup, case.method, case.origin
    training = case.recipe.training
    asked = f"{origin}: training.processes = {training.processes}"
    if not issubclass(case.kind, StackLearner):
        raise ConfigError(
            f"{asked} is for methods that train a stack of modules, and {method.like!r} is none: "
            f"leave it out"
        )
    if method.schedule is Schedule.PIPELINE:
        raise ConfigError(
            f'{asked} has all units in every process, and with schedule = "pipeline" each process '
            f'has its own: use "interleaved", or leave processes out'
        )
    if training.batch_size % training.processes:
        raise ConfigError(
            f"{asked} cannot share batches of {training.batch_size} equally: use a "
            f"training.batch_size that {training.processes} divides"
        )
    _check_groups(setup.objective, training=training, asked=asked)
    if training.kept_outputs is not None:
        raise ConfigError(f"{asked} keeps no outputs on disk: leave out training.kept_outputs")
    if training.compile and not setup.encoder.examples_are_independent(setup.encoder_options):
        raise ConfigError(
            f"{asked} synchronises the batch norm of {setup.encoder_options.kind!r}, which is not "
            f"compiled: leave out training.compile"
        )
    if case.suite.inside is not None:
        raise ConfigError(
            f"{asked}: [inside] looks at all modules after every epoch, and other processes have "
            f"them: leave [inside] or processes out"
        )


def _check_groups(objective: Settings, *, training: TrainingSettings, asked: str) -> None:
    """Groups that negatives are drawn within lie in one process, or have whole processes.

    Groups of several processes have equal sizes, as each process weighs its groups alone.
    """
    if not isinstance(objective, InfoNCESettings) or objective.negatives_within is None:
        return
    share = training.batch_size // training.processes
    within = min(objective.negatives_within, training.batch_size)
    if share % within and (within % share or training.batch_size % within):
        raise ConfigError(
            f"{asked} gives {share} examples to each process, and info_nce.negatives_within = "
            f"{within} neither divides {share} nor is a multiple of it that divides the batch of "
            f"{training.batch_size}: use {share}, or another training.batch_size"
        )
