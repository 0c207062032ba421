"""Questions that probes answer: a target, and the labels of a split that fit and validate."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import DataError
from gim_bench.settings.probing import ProbeSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A target with the labels of a split that fit or validate its probes."""

    target: Target
    steps: int  # labels of each example of the split; a whole recording may have fewer of its own
    places: Int[Tensor, "n"]  # indices of the labels among the split's flattened labels; ascending
    labels: Int[Tensor, "n"]
    validating: Bool[Tensor, "n"]
    items: Int[Tensor, "item"]  # images or recordings with one of these labels; ascending
    validation_items: Int[Tensor, "validation"]  # those of them that validate; ascending

    def within(self, batch: Batch, *, first: int) -> Int[Tensor, "i"]:
        """The question's places within a batch, as indices into the batch's flattened labels.

        `first` is the number of the batch's first example in the split.
        """
        start, end = first * self.steps, (first + len(batch.inputs)) * self.steps
        low, high = torch.searchsorted(self.places, torch.tensor([start, end])).tolist()
        return (self.places[low:high] - start).to(batch.inputs.device)


def question(train: Batches, target: Target, *, settings: ProbeSettings) -> Question:
    """The labels of the training split that fit or validate probes of a target.

    The draw depends on the batches' stream alone. Validation holds out whole sources, which are
    images and recordings where a data set names no other: windows of one recording never serve
    both fitting and validation.

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
        share = _share(
            items[places],
            torch.zeros_like(places) if target.per_step else labels[places],
            fraction=settings.labelled_fraction,
            draw=seeding.generator("labelled fraction", target.name, *train.stream),
        )
        places = places[torch.isin(items[places], share)]
    limit = settings.fitted_steps
    if target.per_step and limit is not None and len(places) > limit:
        draw = seeding.generator("probe labels", target.name, *train.stream)
        places = places[torch.randperm(len(places), generator=draw)[:limit]].sort().values
    present = groups[places].unique()
    if len(present) < 2:
        raise DataError(
            f"{len(present)} {train.noun_of_items}(s) of the training split have a {target.name} "
            f"label; the probe needs two or more, to fit and to choose a learning rate: label more"
        )
    order = torch.randperm(len(present), generator=seeding.generator("validation", *train.stream))
    held_out = min(max(1, round(len(present) * settings.validation_fraction)), len(present) - 1)
    validating = torch.isin(groups[places], present[order[:held_out]])
    return Question(
        target=target,
        steps=steps,
        places=places,
        labels=labels[places].long(),
        validating=validating,
        items=items[places].unique(),
        validation_items=items[places[validating]].unique(),
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
    train: Batches, targets: Sequence[Target], *, settings: ProbeSettings
) -> Int[Tensor, "item"]:
    """Images or recordings on which probes of any of the targets are validated; ascending.

    The items are in no probe's fitting share. Raises: DataError as `question` does.
    """
    asked = [question(train, target, settings=settings) for target in targets]
    return torch.cat([each.validation_items for each in asked]).unique()
