"""Augmented copies of real batches, which the linear probe may be fitted on."""

import pytest
import torch

from gim_bench.contract import Split
from tests.tiny_suite import SPEECH_TOML, TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite


@pytest.fixture(params=["images", "speech"])
def batches(request, tmp_path):
    """Labelled batches of a tiny suite."""
    speech = request.param == "speech"
    with noise_registered():
        suite = tiny_suite(tmp_path, toml=SPEECH_TOML if speech else TOML)
        yield tiny_bench(suite).batches(tiny_cell(suite, "gim"), Split.TRAIN)


def copies(batches, number):
    pairs = list(batches.augmented_copies(number))
    items = torch.cat([items for items, _ in pairs])
    labels = {
        name: torch.cat([batch.labels[name] for _, batch in pairs]) for name in pairs[0][1].labels
    }
    return items, torch.cat([batch.inputs for _, batch in pairs]), labels


def test_copies_visit_every_item_once_with_its_label(batches):
    items, inputs, labels = copies(batches, 1)
    assert items.tolist() == list(range(batches.items))
    assert len(inputs) == batches.items
    of_items = batches.items_of_examples
    for name, found in labels.items():
        whole = batches.labels[name]
        if whole.dim() == 1:
            assert all(whole[of_items == item].unique() == found[item] for item in items)


def test_copies_are_the_same_every_time_and_differ_from_pass_to_pass(batches):
    first, again, second = (copies(batches, number)[1] for number in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
