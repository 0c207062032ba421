"""The report in Markdown: a table for every part, from the rows that are there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Part

NOTES = {
    "peaks": "Random operands. TFLOP/s count two operations for each multiply-add; a copy on the "
    "device counts bytes read and written.",
    "vision": "Examples are images. A share is of the bf16 matrix product under Peaks. `gim` goes "
    "backward module by module; `pieces` counts what it computes twice. In `batches drawn` each "
    "step has a batch of its own, from data on the device; with `cudnn.benchmark`, in a process of "
    "its own, cuDNN tries its kernels and keeps the fastest. The first step holds the choice of "
    "kernels, unless an earlier row chose them. `first loss` is the top module's, equal for equal "
    "learners and batches.",
    "compiled": "As the vision step. The first step holds the compilation, unless an earlier row "
    "compiled the same layers.",
    "waits": "Lines at which the CPU waited for the card in one step, with the batch that it draws "
    "(torch.cuda.set_sync_debug_mode). A line is the innermost one of Python, which within a "
    "backward pass or an optimiser is PyTorch's.",
    "profile": "Of one step with the batch that it draws, by PyTorch's profiler, which slows the "
    "step down. Calls of `all` are kernel launches.",
    "memory": "See docs/memory.md for each name. Each row is a new learner in one process, which "
    "has its kernels loaded. `device used` is what is not free on the card, whoever holds it.",
    "nvml": "A block of known size in a process that holds nothing else besides loaded kernels and "
    "cuBLAS's workspace. `device grown` is by the driver's free memory.",
    "training": "Oriented waves in noise, 96×96; losses in nats. `validation` is of images that "
    "nothing was trained on.",
    "largest": "Two optimiser steps of a new learner, to within a sixteenth.",
    "probe": "Random pixels and labels, so that no accuracy means anything; all modules.",
    "quickstart": "One seed, trained once and probed.",
}


def write_report(
    path: Path, parts: Sequence[tuple[Part, Mapping[str, Any]]], *, facts: Mapping[str, object]
) -> None:
    """Write what there is of the parts; parts that have not begun are lines of the summary."""
    lines = ["# Measurement of a device", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if facts["sizes"] == "rehearsal":
        lines += ["", "**A rehearsal on tiny sizes: no number means anything.**"]
    summary = [
        {
            "part": part.title,
            "status": found.get("status", "not begun"),
            "seconds": found.get("seconds"),
            "why": found.get("why"),
            "rows": len(found.get("rows", [])),
            **{
                f"{name}_rows": sum(name in row for row in found.get("rows", [])) or None
                for name in ("failed", "not_measured")
            },
        }
        for part, found in parts
    ]
    lines += ["", *_table(summary)]
    for part, found in parts:
        if found.get("rows"):
            lines += ["", f"## {part.title}", ""]
            lines += [NOTES[part.name], ""] if part.name in NOTES else []
            lines += _table(found["rows"])
    path.write_text("\n".join(lines) + "\n")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column for each name that any row has a value for, in the order of first appearance."""
    names = list(dict.fromkeys(n for row in rows for n, value in row.items() if value is not None))
    return [
        f"| {' | '.join(_heading(name) for name in names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(_shown(name, row.get(name)) for name in names)} |" for row in rows),
    ]


def _heading(name: str) -> str:
    """Return the head of a column.

    >>> _heading("gpu_allocated_peak_bytes")
    'gpu allocated peak, GB'
    """
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes').replace('_', ' ')}, GB"
    return name.replace("_", " ")


def _shown(name: str, value: object) -> str:
    """Return a value as a cell of its column.

    >>> _shown("gpu_allocated_peak_bytes", 1_234_567_890)
    '1.235'
    >>> _shown("share_of_bf16_peak", 0.4123), _shown("loss", 2.83321), _shown("batch", 128)
    ('41.2 %', '2.833', '128')
    """
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_bytes"):
            return f"{value / 1e9:.3f}"
        if name.startswith("share"):
            return f"{100 * value:.1f} %"
        if isinstance(value, float):
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
