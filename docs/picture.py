"""Draw docs/quickstart.svg from the quickstart's reference: python docs/picture.py [FILE]."""

import json
import sys
from pathlib import Path
from typing import Any

from gim_bench.report.document import Curve, Figure, Panel, Points
from gim_bench.report.figures import as_svg
from gim_bench.seals import sha256_of

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference" / "quickstart.json"


def picture() -> Figure:
    """Test accuracy of every module, seed by seed, of the rows that have modules."""
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    methods = {
        name: row
        for name, row in reference["methods"].items()
        if "accuracy/module_1" in row["metrics"]
    }
    seeds = max(len(row["seeds"]) for row in methods.values())
    curves = [
        Curve(method=name, seeds=[_over_modules(row, str(seed)) for seed in row["seeds"]])
        for name, row in methods.items()
    ]
    return Figure(
        title="Linear probe on every module of the quickstart's methods",
        panels=[Panel(title=f"Linear probe on frozen features, {seeds} seeds", curves=curves)],
        methods=list(methods),
        x_label="module",
        y_label="test accuracy, %",
    )


def _over_modules(row: dict[str, Any], seed: str) -> Points:
    """[(module, percent), …]; the reference names the top module's accuracy without a number."""
    metrics, top = row["metrics"], len(row["config"]["encoder"]["blocks"])
    lower = [(float(m), metrics[f"accuracy/module_{m}"][seed]) for m in range(1, top)]
    return [*lower, (float(top), metrics["accuracy"][seed])]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "quickstart.svg"
    drawn_from = f"<!-- drawn from the reference with sha256 {sha256_of(REFERENCE)} -->\n"
    target.write_text(as_svg(picture()).rstrip() + "\n" + drawn_from, encoding="utf-8")
