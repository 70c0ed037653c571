"""Whether an error says that this process has lost its GPU. Never imports torch.

After such an error every further call of CUDA in the process fails, whatever it is given: it "leaves the process in an
inconsistent state ... the process must be terminated and relaunched" (cudaErrorLaunchFailure and its neighbours,
https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html). A new process may get the device back, or another.
"""

from collections.abc import Iterator

# What torch raises them as: torch.AcceleratorError, or in versions before it a plain RuntimeError.
_ORIGINS = ("CUDA error", "HIP error", "CUDA driver error", "cuDNN error", "NCCL error")
# In CUDA's own words (cudaGetErrorString), lower case. Not among them are errors that leave the context alive (out of memory,
# invalid argument, no kernel image), and "device-side assert triggered", which is a fault of the program.
_LOST = (
    "unspecified launch failure",
    "an illegal memory access",
    "an illegal instruction",
    "misaligned address",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "invalid/contained",
    "the launch timed out and was terminated",
    "context is destroyed",
    "device(s) is/are busy or unavailable",
    "devices are busy or unavailable",
    "no cuda-capable device is detected",
    "no hip-capable device is detected",
    "device lost",
    "mps client",
    "mps server",
    "unknown error",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)


class DeviceLostError(Exception):
    """The process has lost its device, and has to end. The message is the first line of what the device's library said."""


def loss(error: BaseException) -> str | None:
    """What a device's library said of its loss, one line; None for any other error. Looks at what the error came of, too."""
    for one in _chain(error):
        first = str(one).strip().partition("\n")[0]
        if isinstance(one, DeviceLostError) or (isinstance(one, RuntimeError) and _says_so(first)):
            return first
    return None


def _says_so(line: str) -> bool:
    return any(origin in line for origin in _ORIGINS) and any(words in line.lower() for words in _LOST)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
