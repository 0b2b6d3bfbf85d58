"""What every kernel should compute: one NumPy function of the kernel's own name, in float64 where it rounds.

Not for speed, and not used at run time: these are what tests and `bench --check` compare with.
A function takes the bindings that the kernel reads, then push and specialization constants as lower-case
keywords. It returns the array that the kernel writes, or a tuple of them in the contract's order.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

from ...errors import ContractError

Reference = Callable[..., Any]


@cache
def reference(name: str) -> Reference:
    """The reference function of the kernel `name`; ContractError where there is none."""
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        function = getattr(loaded, name, None)
        if callable(function) and getattr(function, "__module__", "") == loaded.__name__:
            found: Reference = function
            return found
    raise ContractError(f"kernel {name!r} has no reference: add a function {name} to a module of {__name__}")
