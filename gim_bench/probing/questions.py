"""Questions that probes answer: a target, and the labels of a split that fit and validate."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import DataError
from gim_bench.settings.probing import CommonProbeSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A target with the labels of a split that fit or validate its probes."""

    target: Target
    steps: int  # labels of each example of the split; a whole recording may have fewer of its own
    places: Int[Tensor, "n"]  # indices of the labels among the split's flattened labels; ascending
    labels: Int[Tensor, "n"]
    validating: Bool[Tensor, "n"]
    items: Int[Tensor, "item"]  # images or recordings with one of these labels; ascending
    validation_items: Int[Tensor, "validation"]  # all items of validating sources; ascending

    def between(self, start: int, end: int) -> Int[Tensor, "i"]:
        """The question's places among labels `start` to `end` of the split, less `start`."""
        low, high = torch.searchsorted(self.places, torch.tensor([start, end])).tolist()
        return self.places[low:high] - start


def question(train: Batches, target: Target, *, settings: CommonProbeSettings) -> Question:
    """The labels of the training split that fit or validate probes of a target.

    The draw depends on the batches' stream alone. Validation holds out whole sources, which are
    images and recordings where a data set names no other: windows of one recording never serve
    both fitting and validation. Where sources have several items and one class each, every class
    has about the same share of its sources in validation. Where sources have one class each, a
    source of every class stays for fitting, unless every class has a single source.

    Raises: DataError if the labels belong to fewer than two sources.
    """
    of_examples = train.labels[target.name]
    labels = of_examples.flatten()
    steps = labels.numel() // len(of_examples)
    groups, items = (
        values.repeat_interleave(steps) for values in (train.groups, train.items_of_examples)
    )
    places = (labels >= 0).nonzero().squeeze(1)
    if settings.labelled_fraction < 1:
        known = labelled_items(train, target, settings=settings)
        places = places[torch.isin(items[places], known)]
    limit = settings.fitted_steps
    if target.per_step and limit is not None and len(places) > limit:
        draw = seeding.generator("probe labels", target.name, *train.stream)
        places = places[torch.randperm(len(places), generator=draw)[:limit]].sort().values
    present, source = groups[places].unique(return_inverse=True)
    if len(present) < 2:
        raise DataError(
            f"{len(present)} {train.noun_of_items}(s) of the training split have a {target.name} "
            f"label; the probe needs two or more, to fit and to choose a learning rate: label more"
        )
    draw = seeding.generator("validation", *train.stream)
    classes = _classes_of_sources(labels[places], source)
    is_joined = len(train.groups.unique()) < len(train.items_of_examples.unique())
    order = (
        _mixed(classes, draw)
        if is_joined and classes is not None
        else torch.randperm(len(present), generator=draw)
    )
    held_out = min(max(1, round(len(present) * settings.validation_fraction)), len(present) - 1)
    spare = order if classes is None else _without_last_of_class(order, classes)
    held_sources = present[(spare if len(spare) else order)[:held_out]]
    return Question(
        target=target,
        steps=steps,
        places=places,
        labels=labels[places].long(),
        validating=torch.isin(groups[places], held_sources),
        items=items[places].unique(),
        validation_items=train.items_of_examples[torch.isin(train.groups, held_sources)].unique(),
    )


def _classes_of_sources(
    labels: Int[Tensor, "n"], source: Int[Tensor, "n"]
) -> Int[Tensor, "source"] | None:
    """The class of each source; None if a source has several classes."""
    ends = [
        torch.zeros(int(source.max()) + 1, dtype=labels.dtype).scatter_reduce_(
            0, source, labels, reduce=reduce, include_self=False
        )
        for reduce in ("amin", "amax")
    ]
    return ends[0] if torch.equal(*ends) else None


def _without_last_of_class(
    order: Int[Tensor, "source"], classes: Int[Tensor, "source"]
) -> Int[Tensor, "spare"]:
    """The order without the last source of each class."""
    places = torch.arange(len(order))
    last = torch.zeros(int(classes.max()) + 1, dtype=places.dtype)
    last.scatter_reduce_(0, classes[order].long(), places, reduce="amax")
    return order[places != last[classes[order].long()]]


def _mixed(classes: Int[Tensor, "source"], draw: torch.Generator) -> Int[Tensor, "source"]:
    """The places of the sources in a random order that has all classes in equal shares, all along.

    Source k of the n of its class is at (k + 1/2) / n of the order.
    """
    at = torch.empty(len(classes), dtype=torch.float64)
    for each in classes.unique():
        members = (classes == each).nonzero().squeeze(1)
        at[members] = (torch.randperm(len(members), generator=draw).double() + 0.5) / len(members)
    order = torch.randperm(len(classes), generator=draw)  # among sources of one place
    return order[at[order].argsort(stable=True)]


def labelled_items(
    train: Batches, target: Target, *, settings: CommonProbeSettings
) -> Int[Tensor, "item"]:
    """Images or recordings whose labels of a target may be used: `labelled_fraction` of a class."""
    of_examples = train.labels[target.name]
    labels = of_examples.flatten()
    items = train.items_of_examples.repeat_interleave(labels.numel() // len(of_examples))
    known = labels >= 0
    return _share(
        items[known],
        torch.zeros_like(labels[known]) if target.per_step else labels[known],
        fraction=settings.labelled_fraction,
        draw=seeding.generator("labelled fraction", target.name, *train.stream),
    )


def _share(
    items: Int[Tensor, "n"],
    classes: Int[Tensor, "n"],
    *,
    fraction: float,
    draw: torch.Generator,
) -> Int[Tensor, "kept"]:
    """A random share of the items of each class, at least one item of each.

    The class of an item is that of its first label.
    """
    found, index = items.unique(return_inverse=True)
    first = torch.full_like(found, len(items)).scatter_reduce_(
        0, index, torch.arange(len(items)), reduce="amin"
    )
    of_item = classes[first]
    kept = []
    for each in of_item.unique():
        members = found[of_item == each]
        order = torch.randperm(len(members), generator=draw)
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return torch.cat(kept) if kept else found


def validation_items(
    train: Batches, targets: Sequence[Target], *, settings: CommonProbeSettings
) -> Int[Tensor, "item"]:
    """Images or recordings of the sources on which probes of the targets are validated; ascending.

    Items without labels are among them. Raises: DataError as `question` does.
    """
    asked = [question(train, target, settings=settings) for target in targets]
    return torch.cat([each.validation_items for each in asked]).unique()
