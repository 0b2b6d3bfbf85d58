"""Training of low-rank adapters on quantised models, as recorded dispatch chains."""

from __future__ import annotations
