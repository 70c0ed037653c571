"""What CUDA says when a device is lost, and what it says else."""

import pytest

from pairsift.stages.devices import DeviceLostError, loss

LOST = [
    "CUDA error: unspecified launch failure\nSearch for `cudaErrorLaunchFailure' in https://docs.nvidia.com/",
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA error: no CUDA-capable device is detected",
    "CUDA error: unknown error",
    "HIP error: unspecified launch failure",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
]
ALIVE = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "CUDA error: invalid argument",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: device-side assert triggered",  # a fault of the program: an index out of range
    "unknown error",
    "",
]


@pytest.mark.parametrize("text", LOST)
def test_a_lost_device_is_known_by_what_is_said(text: str) -> None:
    assert loss(RuntimeError(text)) == text.partition("\n")[0]


@pytest.mark.parametrize("text", ALIVE)
def test_other_errors_are_other_errors(text: str) -> None:
    assert loss(RuntimeError(text)) is None


def test_torch_says_it_in_its_own_class() -> None:
    import torch

    assert loss(torch.AcceleratorError(LOST[0])) == "CUDA error: unspecified launch failure"
    assert loss(torch.OutOfMemoryError("CUDA out of memory")) is None


def test_what_an_error_came_of_counts() -> None:
    wrapped = ValueError("the model cannot answer")
    wrapped.__cause__ = RuntimeError(LOST[2])
    assert loss(wrapped) == LOST[2]
    assert loss(DeviceLostError("CUDA error: x")) == "CUDA error: x"


def test_a_file_that_quotes_it_is_no_lost_device() -> None:
    assert loss(OSError(LOST[0])) is None
