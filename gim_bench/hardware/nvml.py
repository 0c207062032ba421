"""The GPU that CUDA uses, as NVIDIA's management library (NVML) names it."""

from typing import Any

import torch


class UnmeasurableError(Exception):
    """Something cannot be measured; the message gives the reason."""


def device(of: torch.device) -> tuple[Any, str, Any]:
    """The library, and the device's UUID and handle there.

    The UUID identifies the device: NVML's index differs from that of CUDA_VISIBLE_DEVICES.

    Raises: UnmeasurableError.
    """
    try:
        import pynvml
    except ImportError:
        raise UnmeasurableError("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UnmeasurableError(str(error)) from None
    uuid = str(torch.cuda.get_device_properties(of).uuid)
    # PyTorch does not tell whether the device is a GPU or a MIG instance.
    known = uuid.startswith(("GPU-", "MIG-"))
    uuids = [uuid] if known else [f"GPU-{uuid}", f"MIG-{uuid}"]
    reason = ""
    for each in uuids:
        try:
            return pynvml, each, pynvml.nvmlDeviceGetHandleByUUID(each)
        except pynvml.NVMLError as error:
            reason = str(error)
    raise UnmeasurableError(f"no device {' or '.join(uuids)}: {reason}")
