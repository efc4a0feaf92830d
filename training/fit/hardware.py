"""On what is trained, and with how many bits: the one place that opens accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from training.config import RunConfig
from training.errors import UsageError

#: Our words for what accelerate calls mixed precision.
MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def open_accelerator(config: RunConfig, *, are_pictures: bool) -> Accelerator:
    """The process's share of the hardware: a GPU, Apple's, or the CPU; alone or one of several.

    Raises:
        UsageError: this hardware has no such precision.
    """
    # Precision is a state of the process in accelerate, and a process may train several runs.
    AcceleratorState._reset_state()
    device = PartialState(cpu=config.device == "cpu").device
    precision = choose_precision(
        config.precision, device.type, are_pictures=are_pictures, has_bf16=has_fast_bf16(device)
    )
    accelerator = Accelerator(mixed_precision=MIXED[precision], cpu=config.device == "cpu")
    torch.set_num_threads(config.threads)  # accelerate may have set it by the number of processes
    return accelerator


def choose_precision(asked: str, device: str, *, are_pictures: bool, has_bf16: bool) -> str:
    """fp32, bf16 or fp16. "auto" is bf16 for pictures where the hardware has it: convolutions gain
    half again, and small dense layers lose more to conversions than they gain.

    Raises:
        UsageError: fp16 without a GPU, whose small range needs one's scaled gradients.
    """
    if asked == "fp16" and device != "cuda":
        raise UsageError(f"precision=fp16 needs a GPU, this is {device}; bf16 runs here")
    if asked != "auto":
        return asked
    return "bf16" if are_pictures and has_bf16 and device in ("cpu", "cuda") else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by itself, rather than by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Put the weights of convolutions in this order in memory; the shapes stay."""
    network.to(memory_format=layout)  # type: ignore[call-overload]


def join_processes(config: RunConfig) -> None:
    """Meet the other processes, where several were started for one training (`torchrun`)."""
    PartialState(cpu=config.device == "cpu")


def is_first_process() -> bool:
    """Whether this process is the one that speaks, keeps checkpoints and publishes."""
    return bool(PartialState().is_main_process)


def part_with_others() -> bool:
    """Once all training is done. Returns whether this is the process that goes on."""
    PartialState().destroy_process_group()
    return is_first_process()
