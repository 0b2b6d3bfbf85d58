"""`python -m flux_vk.flux asm|dis|run|check|...`: the command line of flux_vk/cli/flux. See --help."""

from __future__ import annotations

import sys

from flux_vk.cli.flux import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
