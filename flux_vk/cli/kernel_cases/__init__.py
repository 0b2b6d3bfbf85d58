"""Further kernels at the sizes of models, a module for each kind. A new kernel's case goes into one of these modules.

A module has `cases(sizes, rows, types, context)`, a generator of flux_vk.cli.bench_cases.Case; modules are found by
themselves. Not for: timing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux_vk.cli.bench_cases import Case, Sizes


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """The cases of all modules of this folder, in the order of their names."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        yield from importlib.import_module(f"{__name__}.{module}").cases(sizes, rows, types, context)
