"""Device and number format: decided once, from what was asked and what is there."""

import pytest
import torch

from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import (
    arithmetic,
    at_least_fp32,
    autocast,
    listed_devices,
    resolve_device,
    resolve_precision,
)
from gim_bench.settings.schema import Precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are so many GPUs."""

    def pretend(count, *, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    return pretend


@pytest.mark.parametrize(("count", "expected"), [(0, CPU), (1, GPU), (8, GPU)])
def test_auto_is_a_gpu_where_there_is_one(count, expected, gpus):
    gpus(count)
    assert resolve_device("auto") == expected


@pytest.mark.parametrize(("name", "count"), [("cpu", 0), ("cuda", 1), ("cuda:0", 1), ("cuda:3", 4)])
def test_a_device_that_is_there_is_taken_as_named(name, count, gpus):
    gpus(count)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "mps", "meta", "xla:0", "CPU "])
def test_a_device_of_no_known_kind_gets_one_line(name, gpus):
    gpus(1)
    with pytest.raises(ConfigError) as error:
        resolve_device(name)
    message = str(error.value)
    assert message == f"no device {name!r} (--device): use auto, cpu, cuda or cuda:<number>"


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_that_is_not_there_gets_one_line_with_the_number_that_is(name, count, gpus):
    gpus(count)
    with pytest.raises(ConfigError, match=rf"no device '{name}' .* sees {count} GPU\(s\); use"):
        resolve_device(name)


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "device"),
    [
        (Precision.FP32, CPU),
        (Precision.FP32, GPU),
        (Precision.BF16, CPU),
        (Precision.BF16, GPU),
        (Precision.TF32, GPU),
    ],
)
def test_a_precision_that_was_asked_for_stays(precision, device):
    assert resolve_precision(precision, device) is precision


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), Precision.FP32), ((8, 0), Precision.BF16), ((9, 0), Precision.BF16)],
)
def test_auto_is_bf16_on_gpus_from_ampere_on(capability, expected, gpus):
    gpus(1, capability=capability)
    assert resolve_precision(Precision.AUTO, GPU) is expected


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "expected"),
    [
        ("x86_64", True, False, Precision.BF16),
        ("x86_64", False, True, Precision.BF16),
        ("AMD64", False, False, Precision.FP32),  # computes in fp32, with conversions
        ("aarch64", False, False, Precision.BF16),
    ],
)
def test_auto_is_bf16_on_cpus_with_instructions_for_it(
    machine, avx512_bf16, amx, expected, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert resolve_precision(Precision.AUTO, CPU) is expected


def test_auto_is_fp32_on_a_cpu_where_pytorch_has_no_bf16(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert resolve_precision(Precision.AUTO, CPU) is Precision.FP32


@pytest.mark.parametrize(
    ("precision", "dtype"), [(Precision.BF16, torch.bfloat16), (Precision.FP32, torch.float32)]
)
def test_matrix_products_are_computed_in_the_precision(precision, dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_are_computed_in_fp32_or_wider(dtype, expected):
    assert at_least_fp32(dtype) is expected


# -- TF32 ------------------------------------------------------------------------------------------


def flags():
    """Whether a GPU's matrix products, and its convolutions and recurrent layers, use TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_on_a_cpu_gets_one_line():
    with pytest.raises(ConfigError, match=r"tf32 is one of GPUs, .*: use fp32 or bf16"):
        resolve_precision(Precision.TF32, CPU)


@pytest.mark.parametrize("context", [arithmetic, lambda precision: autocast(CPU, precision)])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.BF16])
def test_a_gpu_uses_tf32_where_it_is_named_and_nowhere_else(context, precision):
    before = flags()
    with context(precision):
        assert flags() == ((precision is Precision.TF32),) * 2
    assert flags() == before


# -- the devices of several workers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "device"),
    [("cpu,cpu", "auto"), ("cuda:1,cuda:0,cuda:1", "cuda"), ("cuda:0", "cuda:3")],
)
def test_names_are_listed_in_their_order(text, device):
    assert listed_devices(text, device=device) == text.split(",")


@pytest.mark.parametrize(
    ("text", "named"),
    [("cpu,gpu", "gpu"), ("", ""), ("cuda:0,", ""), ("auto", "auto"), ("cuda,cuda:1", "cuda"),
     ("cuda:-1", "cuda:-1"), ("cuda:", "cuda:"), ("cpu:0", "cpu:0"), ("cpu, cpu", " cpu")],
)  # fmt: skip
def test_a_name_that_is_none_of_a_worker_s_device_gets_one_line(text, named):
    with pytest.raises(ConfigError) as error:
        listed_devices(text, device="auto")
    assert str(error.value) == (
        f"no device {named!r} in --devices {text}: name each worker's device as cpu or "
        f"cuda:<number>, with commas in between"
    )


@pytest.mark.parametrize(
    ("text", "device"), [("cpu,cuda:0", "auto"), ("cpu,cpu", "cuda"), ("cuda:0,cuda:1", "cpu")]
)
def test_devices_of_two_kinds_get_one_line(text, device):
    with pytest.raises(ConfigError, match="has CPUs and GPUs, whose numbers differ: use one kind"):
        listed_devices(text, device=device)
