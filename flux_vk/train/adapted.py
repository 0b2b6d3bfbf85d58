"""The low-rank part of a product, forward and backward. Not for: the product itself (step.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..gpu.gemm import gemm

if TYPE_CHECKING:
    from ..gpu import Buffer
    from .step import TrainStep


@dataclass(frozen=True)
class Pair:
    """The adapter of one weight on the device: a f32[r, in], b f32[out, r], and their gradients (added to)."""

    a: Buffer
    b: Buffer
    grad_a: Buffer
    grad_b: Buffer
    scale: float
    site: int


class Adapted:
    """The adapter's part of a product: columns at..at+out of y."""

    def __init__(self, step: TrainStep, pair: Pair, x: Buffer, y: Buffer, at: int) -> None:
        self.step, self.pair, self.x, self.at, self.width = step, pair, x, at, y.shape[1]
        self.u = step.new(x.shape[0], pair.a.shape[0])
        dropped = self._dropped()
        gemm(step.graph, a=dropped, b=pair.a, c=self.u, m=self.tokens, n=self.rank, k=self.n_in, tb=True)
        gemm(
            step.graph, a=self.u, b=pair.b, c=y, m=self.tokens, n=self.n_out, k=self.rank, tb=True, alpha=pair.scale,
            accumulate=True, ldc=self.width, c_offset=at,
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.x.shape[0]

    @property
    def rank(self) -> int:
        return self.pair.a.shape[0]

    @property
    def n_in(self) -> int:
        return self.pair.a.shape[1]

    @property
    def n_out(self) -> int:
        return self.pair.b.shape[0]

    def backward(self, g: Buffer) -> None:
        """du = s g B; grad B += s g^T u; grad A += du^T drop(x); dx += drop(du A)."""
        step, pair, chain = self.step, self.pair, self.step.graph
        du = step.new(self.tokens, self.rank)
        columns: dict[str, Any] = {"a": g, "lda": self.width, "a_offset": self.at, "alpha": pair.scale}
        gemm(chain, b=pair.b, c=du, m=self.tokens, n=self.rank, k=self.n_out, **columns)
        gemm(
            chain, b=self.u, c=pair.grad_b, m=self.n_out, n=self.rank, k=self.tokens, ta=True, accumulate=True,
            **columns,
        )  # fmt: skip
        gemm(
            chain, a=du, b=self._dropped(), c=pair.grad_a, m=self.rank, n=self.n_in, k=self.tokens, ta=True,
            accumulate=True,
        )  # fmt: skip
        if not step.grads.needed(self.x):
            return
        dx, accumulate = step.grads.into(self.x)
        if not step.dropout:
            gemm(chain, a=du, b=pair.a, c=dx, m=self.tokens, n=self.n_in, k=self.rank, accumulate=accumulate)
            return
        whole = step.new(*self.x.shape)
        gemm(chain, a=du, b=pair.a, c=whole, m=self.tokens, n=self.n_in, k=self.rank)
        self._drop(whole, dx, accumulate)

    def _dropped(self) -> Buffer:
        if not self.step.dropout:
            return self.x
        y = self.step.new(*self.x.shape)
        self._drop(self.x, y, False)
        return y

    def _drop(self, x: Buffer, y: Buffer, accumulate: bool) -> None:
        step = self.step
        step.graph.dropout(
            x=x, y=y, counter=step.batch.counter, site=self.pair.site, rate=step.dropout, accumulate=int(accumulate)
        )
