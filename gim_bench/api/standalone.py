"""An encoder as a Python file that needs PyTorch and safetensors alone.

`torch.export` traces the encoder, so that the file computes what gim_bench computes, for encoders
of plug-ins as well. The graph is written as text and its tensors as safetensors: nothing is
pickled. A `.pt2` file of PyTorch's would be: it holds pickled parts, and loading it unpickles.
"""

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind

from gim_bench.api import plain
from gim_bench.api.encoders import WEIGHTS, Trained
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.settings.augmentations import CropSettings, RegionSettings, SpeechSettings

CONSTANTS = "constants.safetensors"
ROOT = "trained."  # of the names of the encoder's tensors, within the traced module
# Which device it was traced on, and checks of what it was traced with.
DEVICE = re.compile(r"device\(type='[a-z]+'(?:, index=\d+)?\)")
CHECKS = re.compile(r"^ +_assert_tensor_metadata\w* = .*\n", re.MULTILINE)

FILE = '''"""{title}, for PyTorch without gim_bench.

    from encoder import Encoder

    features = Encoder()(examples)  # {{"module_1": [n d], …}}

The weights lie beside this file. `graph` is the encoder as torch.export of PyTorch {torch} sees it.
"""

{shared}

def graph({arguments}, examples):
    place = examples.device
{body}

class Encoder(ExportedEncoder):
    """{title}."""

    def __init__(self, folder=Path(__file__).parent):
        super().__init__(
            graph,
            modules={modules},
            tensors={tensors},
            files=[Path(folder) / name for name in {files}],
            dtype={dtype},
            shape={shape},
        )
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Standalone:
    """A Python file, and the tensors that it needs beside the weights, as safetensors."""

    source: str
    constants: bytes | None  # None: it needs no others


class _Features(nn.Module):
    """The features of cropped examples: one tensor for each module."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.trained = trained.module
        self.whole = trained

    def forward(self, examples: Tensor) -> tuple[Tensor, ...]:
        return tuple(pooled.float() for pooled in self.whole.pooled(self.whole.read(examples)))


def standalone(trained: Trained, *, title: str) -> Standalone:
    """The encoder as a Python file. `title` says in a few words which encoder it is.

    Examples have the size that the encoder was trained with, before the conversion to gray.

    Raises: ConfigError if PyTorch cannot trace the encoder for batches of any size, or if the
    encoder's images were resized or windows of large images.
    """
    reading = trained.augmentation
    if isinstance(reading, RegionSettings):
        raise ConfigError(
            f"{title} was trained on windows of large images, and exported encoders crop what "
            f"gim_bench.features reads whole: use gim_bench.features"
        )
    if isinstance(reading, CropSettings) and reading.resize is not None:
        raise ConfigError(
            f"{title} was trained on images resized to {reading.resize} pixels, and "
            f"exported encoders crop but do not resize: use gim_bench.features"
        )
    speech = isinstance(reading, SpeechSettings)
    dtype = torch.int16 if speech else torch.uint8
    shape = reading.shape if speech else (3, *reading.shape[1:])
    program = _traced(trained, torch.zeros(2, *shape, dtype=dtype))
    kinds, constants = _tensors(program)
    code = program.graph_module.code
    header, body = re.split(r"(?<=\):)\n", code.strip(), maxsplit=1)
    *arguments, examples = re.findall(r"\w+", header.partition("self, ")[2])
    body = DEVICE.sub("place", CHECKS.sub("", body)).rstrip()
    text = FILE.format(
        title=title,
        torch=torch.__version__,
        shared=inspect.getsource(plain).partition('"""\n\n')[2],
        arguments=", ".join(arguments),
        body=re.sub(rf"\b{examples}\b", "examples", body) + "\n",
        modules=[module_name(m) for m in range(len(trained.module.stages))],
        tensors=kinds,
        files=[WEIGHTS, *([CONSTANTS] if constants else [])],
        dtype=dtype,
        shape=shape,
    )
    return Standalone(source=text, constants=save(dict(constants)) if constants else None)


def _traced(trained: Trained, examples: Tensor) -> ExportedProgram:
    features = _Features(trained).eval()
    with torch.no_grad(), warnings.catch_warnings():
        features(examples)  # makes the constants of the device, which a trace cannot
        warnings.filterwarnings("ignore", "The tensor attributes .* were assigned during export")
        try:
            return export(features, (examples,), dynamic_shapes=({0: Dim("n")},), strict=False)
        except Exception as error:  # a trace can fail in any operation of a plug-in
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"PyTorch cannot export {type(trained.module).__name__} for batches of any size "
                f"({reason}): its code must take sizes from x.shape[0], not from len(x)"
            ) from None


def _tensors(program: ExportedProgram) -> tuple[dict[str, str], Mapping[str, Tensor]]:
    """The kind of each tensor by name, in the order of arguments; and those that are no weights."""
    kinds: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        assert spec.target is not None
        name = spec.target.removeprefix(ROOT)
        kinds[name] = "parameter" if spec.kind is InputKind.PARAMETER else "buffer"
        if spec.target in program.constants:
            kinds[name] = "constant"
            constants[name] = program.constants[spec.target].contiguous()
    return kinds, constants
