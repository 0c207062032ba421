"""Trained encoders as modules of PyTorch.

Letters: n = examples, d = feature dimensions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gim_bench.api.plain import centre
from gim_bench.cells.defaults import with_defaults
from gim_bench.contract import Encoder, Images
from gim_bench.datasets.images.crops import check_crop, luma
from gim_bench.datasets.images.crops import normalise as normalise_images
from gim_bench.datasets.images.transforms import resize
from gim_bench.datasets.speech.windows import normalise as normalise_samples
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import StackLearner, module_name
from gim_bench.records.folder import RECORD
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.registry import encoder as encoder_class
from gim_bench.registry import method as method_class
from gim_bench.seals import sha256_of
from gim_bench.settings.augmentations import RegionSettings, SpeechSettings
from gim_bench.settings.schema import AugmentationSettings

WEIGHTS = "encoder.safetensors"
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The encoder of a finished cell, and what belongs to it."""

    module: Encoder  # with the trained weights, in eval mode
    record: Record
    augmentation: AugmentationSettings

    def transform(self, examples: np.ndarray | Tensor) -> Float[Tensor, "n *shape"]:
        """Examples as the encoder's probe sees them: without augmentation, normalised.

        Images are uint8 [image channel row column]: their centre crop, resized and in gray where
        the encoder's training images were. Parts of large images are of any size and not cropped.
        Speech is int16 [window sample] at 16 kHz, of a training window's samples or more.

        Raises: DataError if an image is smaller than the crop; ConfigError for another shape.
        """
        values = _tensor(examples)
        if isinstance(self.augmentation, SpeechSettings):
            _check(values, "speech", torch.int16, "[window sample]", dimensions=2)
            if values.shape[1] < self.augmentation.samples:
                raise ConfigError(
                    f"windows of speech have {self.augmentation.samples} samples or more: these "
                    f"have {values.shape[1]}"
                )
            return self.read(values)
        _check(values, "images", torch.uint8, "[image channel row column]", dimensions=4)
        if values.shape[1] not in (1, 3):
            raise ConfigError(f"images have 1 or 3 channels: these have {values.shape[1]}")
        if isinstance(self.augmentation, RegionSettings):
            return self.read(values)
        size = self.augmentation.crop
        if self.augmentation.resize is not None:
            values = resize(values, side=self.augmentation.resize)
        check_crop(Images(images=values.numpy(), labels={}), crop=size, name="the images")
        return self.read(centre(values, size=size))

    def read(self, values: Tensor) -> Float[Tensor, "n *shape"]:
        """Examples that are cropped already, in gray where the encoder's are gray, normalised."""
        if isinstance(self.augmentation, SpeechSettings):
            return normalise_samples(values, augmentation=self.augmentation)
        if self.augmentation.grayscale and values.shape[1] > 1:
            values = luma(values)
        return normalise_images(values, augmentation=self.augmentation)

    def pooled(self, inputs: Float[Tensor, "n *shape"]) -> Iterator[Float[Tensor, "n d"]]:
        """The encodings of each module, lowest first, averaged over places."""
        for m, z in enumerate(self.module.grids(inputs)):
            yield self.module.steps(z, module=m).mean(dim=1)


def load(cell: str | Path) -> Trained:
    """The encoder of the finished cell in that folder, runs/<suite>/<method>/seed-0-1a2b3c4d.

    Nothing is unpickled: weights are safetensors, whose sha256 the record holds.

    Raises: ConfigError if the folder holds no finished cell with one encoder, or a damaged one.
    """
    folder = Path(cell)
    record = read_record(folder / RECORD)
    if record is None or record.status is not Status.DONE:
        found = "no readable record" if record is None else f"a cell that is {record.status.value}"
        raise ConfigError(f"{folder} holds {found}: name the folder of a finished cell")
    path = folder / WEIGHTS
    known = record.files.get(WEIGHTS)
    if known is None:
        others = [name for name in record.files if name.endswith("_encoder.safetensors")]
        raise ConfigError(
            f"{folder} has no {WEIGHTS}: {record.method} "
            f"{f'has {len(others)} encoders' if others else 'trains no encoder'}"
        )
    try:
        if sha256_of(path) != known:
            raise ConfigError(f"{path} was altered since: run the cell again")
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {path} ({error}): run the cell again") from None
    augmentation, module = _built(with_defaults(record.config), folder=folder)
    try:
        module.load_state_dict(weights)
    except RuntimeError:
        raise ConfigError(
            f"{path} has the weights of {record.method}'s own encoder, which is no stack of "
            f"modules: name a cell of a method that trains the encoder of its suite"
        ) from None
    return Trained(module=module.eval(), record=record, augmentation=augmentation)


def features(
    trained: Trained, examples: np.ndarray | Tensor, *, batch_size: int = BATCH
) -> dict[str, np.ndarray]:
    """The encodings of each module, averaged over places, as float32.

    Returns {"module_1": [n d], …}, lowest module first. `examples` are as in `Trained.transform`.
    """
    found: dict[str, list[Tensor]] = {}
    weights = next(trained.module.parameters())
    with torch.no_grad():
        for some in _tensor(examples).split(batch_size):
            inputs = trained.transform(some).to(weights.device, weights.dtype)
            for m, pooled in enumerate(trained.pooled(inputs)):
                found.setdefault(module_name(m), []).append(pooled.float().cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _built(config: dict[str, Any], *, folder: Path) -> tuple[AugmentationSettings, Encoder]:
    """The augmentation and an encoder without weights, from the settings of a record."""
    try:
        augmentation = TypeAdapter[AugmentationSettings](AugmentationSettings).validate_json(
            json.dumps(config["augmentation"])
        )
        kind = encoder_class(config["encoder"]["kind"])
        options = kind.Options.model_validate_json(json.dumps(config["encoder"]))
        like = config["method"]["like"]
    except (KeyError, ValidationError) as error:
        raise ConfigError(
            f"the settings in {folder / RECORD} are not of this version ({type(error).__name__}): "
            f"run the cell again"
        ) from None
    encoder = kind(options, shape=augmentation.shape)
    method = method_class(like)
    if issubclass(method, StackLearner):
        encoder = method.adapted(encoder)  # an ablation leaves a part of the encoder out
    return augmentation, encoder


def _tensor(examples: np.ndarray | Tensor) -> Tensor:
    """The examples in the memory of the CPU, contiguous."""
    if isinstance(examples, Tensor):
        return examples.cpu().contiguous()
    return torch.from_numpy(np.ascontiguousarray(examples))


def _check(values: Tensor, noun: str, dtype: torch.dtype, shape: str, *, dimensions: int) -> None:
    if values.dtype != dtype or values.ndim != dimensions:
        raise ConfigError(
            f"{noun} are {str(dtype).removeprefix('torch.')} {shape}: these are "
            f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
        )
