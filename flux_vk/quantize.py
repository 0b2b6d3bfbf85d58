"""`python -m flux_vk.quantize IN OUT --type q4_k_m`: a GGUF model in another type. See --help.

The library's `fx.quantize` has the name of this module: once imported, the module itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from flux_vk.cli.quantize import main


class _Callable(ModuleType):
    """This module, called as `flux_vk.engine.quantize.quantize`: importing it must not take that name away."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from flux_vk.engine.quantize import quantize

        return quantize(*args, **options)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _Callable
