"""What notebooks set in PyTorch for all that follows; a step has it once it imports PyTorch, which takes long."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Mapping
from typing import Any, Final

from mlbench.runs.onimport import once_imported

__all__ = ["TORCH", "apply", "read"]

TORCH: Final[dict[str, Any]] = {
    "dtype": "float32",
    "gradients": True,
    "deterministic": False,
    "matmul precision": "highest",
}
"""What it comes with."""


def read(_: Any = None) -> dict[str, Any] | None:
    """Return what holds, None where PyTorch is still being imported or is too old to say."""
    torch: Any = sys.modules["torch"]
    try:
        return {
            "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "gradients": bool(torch.is_grad_enabled()),
            "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
            "matmul precision": str(torch.get_float32_matmul_precision()),
        }
    except AttributeError:
        return None


def apply(settings: Mapping[str, Any], _: Any = None) -> None:
    """Make it hold, at once or when PyTorch is imported."""
    differ = {name: value for name, value in settings.items() if name in TORCH}
    if "torch" in sys.modules or differ != TORCH:
        once_imported("torch", {"torch": functools.partial(_set, differ)})


def _set(settings: Mapping[str, Any], torch: types.ModuleType) -> None:
    known: Any = torch
    now = read() or settings
    try:
        if now["dtype"] != settings["dtype"]:
            known.set_default_dtype(getattr(known, settings["dtype"]))
        if now["gradients"] != settings["gradients"]:
            known.set_grad_enabled(settings["gradients"])
        if now["deterministic"] != settings["deterministic"]:
            known.use_deterministic_algorithms(settings["deterministic"])
        if now["matmul precision"] != settings["matmul precision"]:
            known.set_float32_matmul_precision(settings["matmul precision"])
    except Exception as error:  # noqa: BLE001  another version of PyTorch
        sys.stderr.write(f"mlbench: PyTorch is not set here as in the kernel: {type(error).__name__}: {error}\n")
