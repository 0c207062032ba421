"""The parts of a measurement, the most important first, and the sizes of what is measured."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.case import Cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A table of the report; a part that takes longer than `seconds` is ended."""

    name: str
    title: str
    cases: str  # "module:function", which imports PyTorch
    seconds: float

    def load(self) -> "Cases":
        return named(self.cases)


def named(place: str) -> Any:
    """Return the value that "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


PARTS = tuple(
    Part(name=name, title=title, cases=f"benchmarks.gpu.{cases}", seconds=seconds)
    for name, title, cases, seconds in (
        ("machine", "Machine", "machine:cases", 20),
        ("peaks", "Peaks of this card", "peaks:cases", 40),
        ("vision", "Vision step", "steps:vision", 130),
        ("waits", "Waits in a step", "traces:waits", 20),
        ("profile", "Top kernels of a step", "traces:kernels", 30),
        ("memory", "Memory of training", "peak_memory:table", 120),
        ("nvml", "NVML and PyTorch", "peak_memory:staircase", 15),
        ("audio", "Audio step", "steps:audio", 40),
        ("compiled", "Vision step, compiled", "steps:compiled", 150),
        ("training", "A minute of training", "training:cases", 90),
        ("quickstart", "The quickstart's GIM", "probes:quickstart", 90),
        ("probe", "Probe", "probes:probe", 60),
        ("largest", "Largest batch", "peak_memory:largest", 120),
        ("compiled_more", "More compiled steps", "steps:compiled_more", 300),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of what is measured; the first four are settings of suites."""

    vision: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    quickstart: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()  # of the suite stl10
    batches: tuple[int, ...]  # images; the first is the one that most cases have
    audio_batches: tuple[int, ...]
    memory_batches: tuple[int, ...]
    memory_rows: int  # of a table of memory, the most important first
    matrix: int  # rows of square matrices
    convolution_patches: int
    copied_bytes: int
    timed_seconds: float  # of the steps of a case
    training_images: int
    training_seconds: float
    probed_images: int
    compile_seconds: float  # that must be left for a compilation to begin


PAPER = Sizes(
    batches=(128, 512, 16),
    audio_batches=(32, 8),
    memory_batches=(16, 128),
    memory_rows=11,
    matrix=8192,
    convolution_patches=128 * 49,
    copied_bytes=2**30,
    timed_seconds=1.0,
    training_images=8192,
    training_seconds=60,
    probed_images=5000,
    compile_seconds=60,
)
# Everything runs, and no number means anything.
REHEARSAL = Sizes(
    vision=("encoder.width=4", "encoder.blocks=[1, 1, 1]"),
    audio=("encoder.width=8", "encoder.context=4", "augmentation.samples=5120",
           "info_nce.anchor_rows=8"),
    quickstart=("dataset.unlabelled_images=64", "dataset.train_images=200",
                "dataset.test_images=100", "training.epochs=1"),
    probe=("probe.steps=20",),
    batches=(4, 8, 2),
    audio_batches=(4, 2),
    memory_batches=(2, 4),
    memory_rows=3,
    matrix=128,
    convolution_patches=8,
    copied_bytes=2**16,
    timed_seconds=0.05,
    training_images=64,
    training_seconds=2,
    probed_images=60,
    compile_seconds=30,
)  # fmt: skip
SIZES = {"paper": PAPER, "rehearsal": REHEARSAL}
