"""The one hierarchy of errors. Every message names the thing, what was found, what was expected and what to do.

Not for: warnings (those go through `logging`) and not for programming mistakes inside the package (assertions).
"""

from __future__ import annotations


class FluxError(Exception):
    """Base of every error that flux_vk raises on purpose. Command lines print it and exit 1 (a failure)."""

    exit_code = 1


class InputError(FluxError, ValueError):
    """The caller gave something unusable: a file, a shape, an option. Command lines exit 2."""

    exit_code = 2


class GGUFError(InputError):
    """A GGUF file is broken or not supported. Names the file, the key or tensor, found and expected."""


class TokenizerError(InputError):
    """A vocabulary or a chat template cannot be used."""


class GrammarError(InputError):
    """A grammar or JSON schema is malformed, asks for what is not supported, or cannot be met with this vocabulary."""


class ModelError(InputError):
    """A readable GGUF file does not describe a model that can run here (architecture, keys, tensor shapes)."""


class AdapterError(InputError):
    """A LoRA adapter is broken, not supported, or does not fit the model. Names tensor or key, found and expected."""


class ProgramError(InputError):
    """A FLUX program cannot be used: names file, line and column of its source, or the offsets in its bytecode."""


class ContractError(FluxError):
    """A kernel contract is malformed, or does not agree with its SPIR-V."""


class ArgumentError(InputError):
    """A kernel call does not fit its contract: names kernel, argument, shape or type wanted and got."""


class ContextFull(FluxError):
    """A prompt or a sequence is longer than the context, and may not be shifted."""

    exit_code = 2


class TrainingDiverged(FluxError):
    """A loss or a gradient became NaN or infinite; the last good checkpoint is kept, and named."""


class VulkanError(FluxError):
    """A Vulkan call failed; `result` holds the VkResult's name."""

    def __init__(self, message: str, result: str = "") -> None:
        super().__init__(message)
        self.result = result


class VulkanUnavailable(VulkanError):
    """There is no Vulkan loader, no driver, or no device with a compute queue."""


class UnknownDevice(VulkanUnavailable):
    """The device asked for by index or name is not there; the message lists those that are."""

    exit_code = 2


class OutOfDeviceMemory(VulkanError):
    """An allocation failed, or a model cannot fit; the message states needed and free bytes."""


class DeviceLost(VulkanError):
    """The device stopped answering; the message names the kernel or the chain in flight."""


class WaitTimeout(VulkanError):
    """A submit did not finish within the time given; it is still running."""
