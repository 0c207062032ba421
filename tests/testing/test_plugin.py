"""The documented line: from a folder outside the checkout, on a package that is only there."""

import subprocess
import sys
from argparse import Namespace

import pytest

from gim_bench import testing
from gim_bench.contract import GradientFlow
from gim_bench.errors import ConfigError
from gim_bench.testing.cases import CLASS, SHAPES
from gim_bench.testing.plugin import asked_for, shape_of, table_of

PACKAGE = '''
from typing import Literal

from torch import nn

from gim_bench.contract import Encoder, GradientFlow, Modality, Objective, Split, Traits
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.methods.stack import StackLearner
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import EncoderSettings


class One(StackLearner):
    """Predicts 1."""

    traits = Traits(
        objective=Objective(name="one"),
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.UNLABELLED,
        modalities=frozenset({Modality.IMAGE}),
    )

    class Options(Settings):
        hidden: int = 512

    def head(self, module, ingredients):
        hidden = ingredients.options.hidden
        dim = self.encoder.dims[module]
        return nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def loss(self, head, views, batch):
        (view,) = views
        steps = self.encoder.steps(view.c, module=view.module)
        ones = head(steps)
        return (ones.to(at_least_fp32(ones.dtype)) - 1).square().mean()


class Faulty(One):
    """Nobody knows its gradient."""

    def loss(self, head, views, batch):
        return super().loss(head, views, batch).detach()


class TwoConvolutions(Encoder):
    modality = Modality.IMAGE

    class Options(EncoderSettings):
        kind: Literal["two_convolutions"] = "two_convolutions"
        width: int = 256

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        self.dims = (options.width, options.width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(below, options.width, 3, stride=2, padding=1), nn.Tanh())
            for below in (shape[0], options.width)
        )

    @classmethod
    def rows(cls, options, *, shape):
        return [shape[1] // 2, shape[1] // 4]

    def prepare(self, inputs):
        return inputs

    def pool(self, activations, *, batch_size):
        return activations.permute(0, 2, 3, 1)

    def steps(self, z, *, module):
        return z.mean(dim=(1, 2)).unsqueeze(1)
'''


def line_of_the_docstring() -> list[str]:
    """The documented line, up to what it tests."""
    (line,) = (each.strip() for each in testing.__doc__.splitlines() if "python -m pytest" in each)
    return line.removeprefix("python ").partition(" --method")[0].split()


@pytest.fixture
def pytest_in_an_empty_folder(tmp_path):
    """Runs the documented line, and more options, beside a module `my_package`."""
    (tmp_path / "my_package.py").write_text(PACKAGE)

    def run(*options, line=None):
        return subprocess.run(
            [sys.executable, *(line or line_of_the_docstring()), *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def test_one_line_tests_a_method_on_an_encoder_and_the_encoder(pytest_in_an_empty_folder):
    small = ["--encoder-option", "width=3", "--method-option", "hidden=4", "--shape", "1,16,16"]
    done = pytest_in_an_empty_folder(
        *["--method", "my_package:One", "--encoder", "my_package:TwoConvolutions"],
        *[*small, "--verbose"],
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    passed = [line for line in lines if " PASSED" in line]
    assert len(passed) > 35
    assert any("[One-images-class]" in line for line in passed)
    assert any("[two_convolutions]" in line for line in passed)


def test_a_fault_fails(pytest_in_an_empty_folder):
    done = pytest_in_an_empty_folder(
        *["--method", "my_package:Faulty", "-k", "every_weight_of_the_encoder"]
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    "line", [None, ["-m", "pytest", "--pyargs", "gim_bench.testing"]], ids=["bare", "no plugin"]
)
def test_without_a_method_or_an_encoder_one_line_says_what_to_do(line, pytest_in_an_empty_folder):
    done = pytest_in_an_empty_folder(line=line)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    (error,) = done.stderr.split("\n\n")[0].splitlines()
    assert error.startswith("ERROR: name what to test: python -m pytest -p gim_bench.testing ")
    assert "PASSED" not in done.stdout


# -- options ---------------------------------------------------------------------------------------


def options(**given) -> Namespace:
    """What pytest makes of the command line."""
    lists = ("method", "encoder", "method_option", "encoder_option", "objective_option")
    by_default = {"shape": None, **{name: [] for name in lists}}
    return Namespace(**(by_default | given))


def test_a_method_is_tested_on_every_modality_with_every_flow_that_it_declares():
    _, cases = asked_for(options(method=["gim"]))
    assert [str(case) for case in cases] == [
        "gim-images-class",
        "gim-images-class-end_to_end",
        "gim-speech-speaker",
        "gim-speech-speaker-end_to_end",
    ]
    assert [case.gradient_flow for case in cases] == [*GradientFlow][:2] * 2


def test_options_reach_the_plug_ins():
    encoders, cases = asked_for(
        options(
            method=["cpc"],
            encoder=["resnet"],
            method_option=["autoregressor_layers=2"],
            encoder_option=["width=2", "blocks=[1, 1]"],
            objective_option=["negatives=7"],
            shape="3,64,64",
        )
    )
    (encoder,), (case,) = encoders, cases
    assert case.on == encoder
    assert (encoder.options.width, encoder.options.blocks) == (2, (1, 1))
    assert encoder.inputs().shape == (8, 3, 64, 64)
    assert (case.options.autoregressor_layers, case.objective.negatives) == (2, 7)
    assert case.target == CLASS


def test_a_shape_alone_chooses_the_modality_that_it_fits():
    _, cases = asked_for(options(method=["random_init"], shape="4800"))
    assert [str(case) for case in cases] == ["random_init-speech-speaker"]
    assert [case.on.shape for case in cases] == [(4800,)]
    assert SHAPES[cases[0].modality] != (4800,)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"method": ["gmi"]}, "no method 'gmi' .*Did you mean 'gim'"),
        ({"encoder": ["my_module:E"]}, "encoder 'my_module:E' cannot be loaded: ModuleNotFound"),
        ({"method": ["tests.toys:ToyEncoder"]}, "is not a Learner"),
        ({"method": ["gim"], "method_option": ["hidden=3"]}, "hidden"),
        ({"method": ["cpc"], "method_option": ["autoregressor_layers=0"]}, "greater than 0"),
        ({"method": ["gim"], "method_option": ["hidden"]}, "'hidden' is not NAME=VALUE"),
        ({"method": ["gim"], "encoder_option": ["width=3"]}, "without --encoder: name the encoder"),
        ({"encoder": ["resnet"], "method_option": ["x=3"]}, "without --method: name the method"),
        ({"method": ["mfcc"], "encoder": ["resnet"]}, "'mfcc' is made for speech"),
        ({"method": ["gim"], "shape": "1,x"}, "'1,x' is no list of sizes"),
        ({"method": ["gim"], "shape": "1,12,12"}, "rows"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(given, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        asked_for(options(**given))
    assert len(str(error.value).splitlines()) == 1


def test_values_are_toml_or_text():
    entries = ["a=3", "b=[4, 8]", "c=none", 'd="x=y"']
    assert table_of(entries, option="-o") == {"a": 3, "b": [4, 8], "c": "none", "d": "x=y"}


def test_a_shape_is_a_list_of_sizes():
    assert shape_of("1,32,32") == (1, 32, 32)
    assert shape_of("3200") == (3200,)
