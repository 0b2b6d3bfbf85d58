"""`python -m flux_vk.train MODEL.gguf --data FILE --out DIR`: the command line of flux_vk/cli/train. See --help."""

from __future__ import annotations

import sys

from flux_vk.cli.train import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
