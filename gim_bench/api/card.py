"""The model card of an exported encoder: README.md as Hugging Face reads it.

Sources: Mitchell et al. 2019, Model Cards for Model Reporting; the front matter follows
https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gim_bench.api.encoders import Trained
from gim_bench.contract import GradientFlow, Modality
from gim_bench.methods.stack import module_name
from gim_bench.records.folder import RECORD
from gim_bench.records.intervals import Estimate, Marks, marks_of, mean_of, sample
from gim_bench.records.metrics import target_of
from gim_bench.records.predictions import PREDICTIONS, Predictions, target_named
from gim_bench.records.provenance import changes
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.seals import sha256_of

UNKNOWN = "unknown"  # the licence of a card that names none, in the words of Hugging Face

CARD = """---
{front}
---

# {title}

An encoder of {count} modules of the row `{method}`, on the data set `{dataset}`, from gim_bench, a
benchmark of gradient-isolated learning.

## Use

With PyTorch and safetensors alone, in this folder:

```python
from encoder import Encoder

features = Encoder()(examples)  # {{"module_1": [n d], …}}
```

{inputs} The file `encoder.py` is text: read it before you run it. Nothing in the folder is pickled.

With gim_bench, `gim_bench.load(folder)` gives the modules themselves, with their encodings at every
place, and `gim_bench.features` the same features.

## Numbers

Test accuracy of linear probes of each frozen module, in percent. {reads}

{numbers}

{intervals}

Protocol: {protocol}
{notes}
## Training and intended use

Suite `{suite}`, method `{method}`, seed {seed}, {steps}. `config.json` holds every
setting and `record.json` every measurement, under a seal. The encoder serves to compare methods
under identical settings. It is no general-purpose model, and its numbers hold for the data named
here.

## Provenance

{provenance}

## Licence

The weights: {licence}. The code of gim_bench, parts of which stand in `encoder.py`: MIT. The terms
of the data set `{dataset}` are in gim_bench's data sheet (docs/datasets.md), or with its publisher.
"""


def title_of(record: Record) -> str:
    """Which encoder it is, in a few words."""
    return f"{record.method}, seed {record.seed} of the suite {record.suite}"


def model_card(trained: Trained, *, folder: Path, licence: str) -> str:
    """The text of README.md for the cell in `folder`; cells of other seeds lie beside it."""
    record = trained.record
    cells = _seeds(record, folder=folder)
    names = [name for name in record.metrics if _module(name)]
    own = {name: _estimate(name, {record.seed: cells[record.seed]}) for name in names}
    means = {name: _estimate(name, cells) for name in names} if len(cells) > 1 else {}
    heads = ["accuracy of", "this encoder", *([f"mean of {len(cells)} seeds"] if means else [])]
    columns = (own, means) if means else (own,)
    rows = [[_about(name), *(_shown(column[name]) for column in columns)] for name in names]
    notes = record.provenance.get("data_notes") or ()
    return CARD.format(
        front=_front(trained, names=names, licence=licence),
        title=title_of(record),
        count=len(trained.module.stages),
        method=record.method,
        dataset=record.dataset,
        suite=record.suite,
        seed=record.seed,
        steps=_steps(record),
        inputs=_inputs(trained),
        reads=_reads(record, names=names),
        numbers=_table([heads, *rows]),
        intervals=_intervals(own.values(), means.values()),
        protocol=record.protocol or "as in config.json.",
        notes="".join(f"\nNote: {note}\n" for note in notes),
        provenance=_table([["", ""], *_provenance(record)]),
        licence="not stated" if licence == UNKNOWN else licence,
    )


def _steps(record: Record) -> str:
    count = int(record.metrics.get("train/steps", 0))
    return f"{count:,} step{'' if count == 1 else 's'} of training" if count else "untrained"


def _reads(record: Record, *, names: Sequence[str]) -> str:
    """What the probes read, beside what `features` returns."""
    if record.config["method"].get("options", {}).get("probe_reads") == "head":
        return (
            "The probes read the outputs of the modules' heads, which are no part of the encoder."
        )
    if any(target_named(name) == "phone" for name in names):
        return "Probes of phones read the encodings of every step; others read the features."
    return "The probes read the features."


def _intervals(own: Iterable[Estimate], means: Iterable[Estimate]) -> str:
    """What the intervals cover, of this encoder's numbers and of means."""
    covered = {"this encoder": _covered(own), "the mean": _covered(means)}
    parts = [f"over {what} for {about}" for about, what in covered.items() if what]
    missing = "the predictions of the record do not lie beside it."
    if not parts:
        return f"There is no interval: {missing}"
    less = "" if covered["this encoder"] else f" This encoder has no interval: {missing}"
    return f"± is half of a 95 % interval: {', '.join(parts)}.{less}"


def _covered(estimates: Iterable[Estimate]) -> str:
    found = {each.covers.replace("items", "the choice of the test examples") for each in estimates}
    return " or ".join(sorted(found - {""}))


def _seeds(record: Record, *, folder: Path) -> dict[int, tuple[Record, Path]]:
    """The finished cells of the same settings, data and version beside a cell, by seed."""
    found = {record.seed: (record, folder)}
    for path in sorted(folder.absolute().parent.glob(f"*/{RECORD}")):
        other = read_record(path)
        if other is not None and other.status is Status.DONE and _origin(other) == _origin(record):
            found.setdefault(other.seed, (other, path.parent))
    return found


def _origin(record: Record) -> tuple[Any, ...]:
    facts = [record.provenance.get(name) for name in ("data_sha256", "results_version")]
    return (record.suite, record.method, json.dumps(record.config, sort_keys=True), *facts)


def _module(name: str) -> str:
    """The module that an accuracy of a linear probe is about; empty for other metrics."""
    metric, _, module = target_of(name)[1].partition("/module_")
    return module if metric == "accuracy" else ""


def _about(name: str) -> str:
    return f"{target_named(name)}, module {_module(name)}"


def _estimate(name: str, cells: Mapping[int, tuple[Record, Path]]) -> Estimate:
    values = {seed: cell.metrics[name] for seed, (cell, _) in cells.items() if name in cell.metrics}
    marks = {seed: found for seed in values if (found := _marks(*cells[seed])) is not None}
    return mean_of(sample(values, marks=marks, metric=name))


def _marks(record: Record, folder: Path) -> Marks | None:
    """Right answers by test example; None if the predictions are missing or were altered."""
    path = folder / PREDICTIONS
    try:
        if sha256_of(path) != record.files.get(PREDICTIONS):
            return None
        return marks_of(Predictions.unpacked(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _shown(estimate: Estimate) -> str:
    half = estimate.half_width()
    return f"{estimate.value:.2f}" + ("" if half is None else f" ± {half:.2f}")


def _inputs(trained: Trained) -> str:
    if trained.module.modality is Modality.SPEECH:
        (samples,) = trained.augmentation.shape
        return f"Examples are speech at 16 kHz: int16 [n sample], {samples:,} samples a window."
    side = trained.augmentation.shape[-1]
    gray = ", and colours become gray" if trained.augmentation.shape[0] == 1 else ""
    return (
        f"Examples are images: uint8 [n channel row column] with 1 or 3 channels. The centre of "
        f"{side}×{side} pixels is read{gray}."
    )


def _provenance(record: Record) -> Iterator[Sequence[str]]:
    facts = record.provenance
    versions = facts.get("versions", {})
    commit = facts.get("git_commit") or "unknown"
    yield "commit of gim_bench", f"{commit} {changes(facts)}".rstrip()
    for name in ("gim-bench", "torch", "python"):
        yield f"version of {name}", versions.get(name, "unknown")
    yield "version of results", str(facts.get("results_version"))
    yield "hardware", str(facts.get("gpu") or facts.get("cpu"))
    yield "sha256 of the data", str(facts.get("data_sha256"))
    yield "sha256 of the weights", record.files["encoder.safetensors"]
    yield "key of the cell", record.key
    yield "finished", str(facts.get("finished_at"))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, whose first row is the heading."""
    heads, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([heads, "|" + "---|" * len(rows[0]), *body])


def _front(trained: Trained, *, names: Sequence[str], licence: str) -> str:
    """The YAML between the dashes. JSON is YAML, and quotes every text."""
    record = trained.record
    speech = trained.module.modality is Modality.SPEECH
    task = "audio-classification" if speech else "image-classification"
    metrics = [
        {
            "type": "accuracy",
            "name": f"{target_named(name)}: linear probe of {module_name(int(_module(name)) - 1)}",
            "value": round(record.metrics[name], 4),
        }
        for name in names
    ]
    result = {
        "task": {"type": task},
        "dataset": {"type": record.dataset, "name": record.dataset},
        "metrics": metrics,
    }
    fields = {
        "license": licence,
        "library_name": "gim_bench",
        "pipeline_tag": "feature-extraction" if speech else "image-feature-extraction",
        "tags": ["gim_bench", record.method, *_tags(record)],
        "model-index": [{"name": title_of(record), "results": [result]}],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())


def _tags(record: Record) -> Iterator[str]:
    """How the encoder was trained, in words that people search for."""
    if "train/steps" not in record.metrics:
        return
    method = record.config["method"]
    yield "supervised-learning" if record.knows_labels else "self-supervised-learning"
    if method["gradient_flow"] == GradientFlow.ISOLATED:
        yield "local-learning"
