"""Forward and backward of one micro-batch in a chain: the architectures' own layers, written down on a tape.

`TrainStep` speaks the vocabulary of models/step.py, so that every architecture's `layer` trains as it is. Each method
appends its forward kernels and puts on the tape what appends its backward kernels; running the tape in reverse makes
the second half of the chain. Not for: the optimiser and the buffers that outlive a step (chains.py, engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..gpu.attention_train import attention_backward, attention_forward
from ..gpu.dead import drop_dead
from ..gpu.gemm import gemm
from ..gpu.matmul import matmul
from ..gpu.matmul_backward import matmul_backward
from ..models.registry import architecture

if TYPE_CHECKING:
    from ..gpu import Buffer, Chain
    from ..models import ModelConfig
    from ..models.weights import Weights

Layer = Callable[[Any, int, "Buffer"], "Buffer"]

HEAD_ROWS = 64
"""Rows whose logits exist at a time. A multiple of 64: every tile then begins where a buffer may be bound."""


@dataclass(frozen=True)
class Pair:
    """The adapter of one weight on the device: a f32[r, in], b f32[out, r], and their gradients (added to)."""

    a: Buffer
    b: Buffer
    grad_a: Buffer
    grad_b: Buffer
    scale: float
    site: int


@dataclass(frozen=True)
class Rows:
    """The micro-batch on the device, u32[T] each: see batches.MicroBatch. counter: what dropout is counted by."""

    ids: Buffer
    pos: Buffer
    first: Buffer
    last: Buffer
    labels: Buffer
    counter: Buffer

    @property
    def count(self) -> int:
        return self.ids.shape[0]


@dataclass
class TrainStep:
    """One forward (and backward) pass being built. Buffers of rows are f32[T, width]."""

    chain: Chain
    cfg: ModelConfig
    weights: Weights
    rows: Rows
    pairs: dict[str, Pair]
    dropout: float = 0.0
    tape: list[Callable[[], None]] | None = None
    grads: Gradients = field(init=False)
    _normed: dict[str, tuple[Buffer, Buffer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grads = Gradients(self.chain)

    # -- the vocabulary of models/step.py -------------------------------------------------------------------------------

    def embed(self) -> Buffer:
        """Rows of the token embedding; it is frozen, so nothing goes back through it."""
        x = self._new(self.rows.count, self.cfg.dim)
        self.chain.embed(ids=self.rows.ids, w=self.weights["token_embd.weight"], y=x, scale=self.cfg.embed_scale)
        return x

    def rms_norm(self, x: Buffer, name: str) -> Buffer:
        """x / rms(x) * weight."""
        made = self._normed.pop(name, None)
        if made is not None and made[0] is x:
            return made[1]
        y = self._new(*x.shape)
        w = self.weights[f"{name}.weight"]
        self.chain.rms_norm(x=x, w=w, y=y, eps=self.cfg.norm_eps)
        self._later((x,), y, lambda g: self._norm_back(x, w, g))
        return y

    def add_rms_norm(self, x: Buffer, r: Buffer, name: str) -> tuple[Buffer, Buffer]:
        """s = x + r and its norm."""
        s, y = self._new(*x.shape), self._new(*x.shape)
        w = self.weights[f"{name}.weight"]
        self.chain.add_rms_norm(x=x, r=r, w=w, s=s, y=y, eps=self.cfg.norm_eps)

        def share(g: Buffer) -> None:
            self.grads.give(x, g)
            self.grads.give(r, g)

        self._later((x, r), s, share)
        self._later((s,), y, lambda g: self._norm_back(s, w, g))
        return s, y

    def add(self, x: Buffer, r: Buffer, next_norm: str) -> Buffer:
        """x + r; the norm that will be asked of it next is computed in the same pass."""
        s, y = self.add_rms_norm(x, r, next_norm)
        self._normed[next_norm] = (s, y)
        return s

    def linear(self, x: Buffer, *names: str, residual: Buffer | None = None) -> Buffer:
        """x W^T (+ bias) (+ residual) + s (drop(x) A^T) B^T; results of several names side by side in one buffer."""
        outs = [self.weights[f"{name}.weight"].shape[0] for name in names]
        y = self._new(x.shape[0], sum(outs))
        at = 0
        for name, width in zip(names, outs, strict=True):
            w, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
            end: dict[str, Any] = {"bias": bias, "residual": residual, "y_stride": y.shape[1], "y_offset": at}
            matmul(self.chain, w=w, x=x, y=y, prompt=True, **end)
            at += width
        adapted, at = [], 0
        for name, width in zip(names, outs, strict=True):
            pair = self.pairs.get(f"{name}.weight")
            if pair is not None:
                adapted.append(_Adapted(self, pair, x, y, at))
            at += width
        sources = (x,) if residual is None else (x, residual)

        def back(g: Buffer) -> None:
            for part in adapted:
                part.backward(g)
            if self.grads.needed(x):
                place = 0
                for name, width in zip(names, outs, strict=True):
                    dx, accumulate = self.grads.into(x)
                    w = self.weights[f"{name}.weight"]
                    matmul_backward(
                        self.chain, w=w, g=g, dx=dx, g_stride=y.shape[1], g_offset=place, accumulate=accumulate
                    )
                    place += width
            if residual is not None:
                self.grads.give(residual, g)

        self._later(sources, y, back, trained=bool(adapted))
        return y

    def attention(self, i: int, qkv: Buffer) -> Buffer:
        """Norm (where there is one) and rotation of q and k, then causal attention within each sequence."""
        cfg, rows, layer = self.cfg, self.rows, self.cfg.layers[i]
        rope, table = cfg.ropes[layer.rope], self.weights.ropes[layer.rope]
        heads: dict[str, Any] = {"heads": cfg.n_heads, "kv_heads": cfg.n_kv_heads, "head_dim": cfg.head_dim}
        turn: dict[str, Any] = {
            "pos": rows.pos, "turns": table.turns, "n_rot": rope.n_rot, "mscale": table.mscale, "eps": cfg.norm_eps,
            "NEOX": int(rope.neox), **heads,
        }  # fmt: skip
        if cfg.qk_norm:
            turn["qnorm"] = self.weights[f"blk.{i}.attn_q_norm.weight"]
            turn["knorm"] = self.weights[f"blk.{i}.attn_k_norm.weight"]
        rule: dict[str, Any] = {"scale": cfg.attn_scale, "softcap": cfg.attn_softcap, "window": layer.window, **heads}
        qk = self._new(rows.count, cfg.q_width + cfg.kv_width)
        y, lse = self._new(rows.count, cfg.q_width), self._new(rows.count, cfg.n_heads)
        self.chain.qk_rope(qkv=qkv, qk=qk, **turn)
        attention_forward(self.chain, qk=qk, qkv=qkv, first=rows.first, y=y, lse=lse, **rule)

        def back(g: Buffer) -> None:
            dqk, dqkv = self._new(*qk.shape), self._new(*qkv.shape)
            attention_backward(
                self.chain, qk=qk, qkv=qkv, first=rows.first, last=rows.last, y=y, lse=lse, dy=g, dqk=dqk, dqkv=dqkv,
                **rule,
            )  # fmt: skip
            self.chain.qk_rope_backward(qkv=qkv, dqk=dqk, dqkv=dqkv, **turn)
            self.grads.give(qkv, dqkv)

        self._later((qkv,), y, back)
        return y

    def output_rows(self, i: int, x: Buffer, a: Buffer) -> tuple[Buffer, Buffer]:
        """Every row goes on: each predicts a token."""
        return x, a

    def swiglu(self, x: Buffer) -> Buffer:
        """silu(left half) * right half."""
        return self._gated(x, "swiglu")

    def geglu(self, x: Buffer) -> Buffer:
        """gelu(left half) * right half, GELU in its tanh form."""
        return self._gated(x, "geglu")

    # -- the loss -------------------------------------------------------------------------------------------------------

    def head(self, x: Buffer, loss: Buffer, backward: bool) -> None:
        """Loss of every row, f32[T], by tiles of rows whose logits become their own gradient.

        Afterwards grads holds that of x, where it is needed.
        """
        n = self.rms_norm(x, "output_norm")
        w, dn = self.weights["output.weight"], None
        backward = backward and self.grads.needed(n)
        if backward:
            dn = self._new(*n.shape)
            self.grads.give(n, dn)
        for start in range(0, self.rows.count, HEAD_ROWS):
            stop = min(start + HEAD_ROWS, self.rows.count)
            logits = self._new(stop - start, w.shape[0])
            matmul(self.chain, w=w, x=n.rows(start, stop), y=logits, prompt=True)
            self.chain.cross_entropy(
                logits=logits, labels=self.rows.labels.rows(start, stop), loss=loss.rows(start, stop),
                softcap=self.cfg.final_softcap, GRAD=int(backward),
            )  # fmt: skip
            if dn is not None:
                matmul_backward(self.chain, w=w, g=logits, dx=dn.rows(start, stop))

    # -- the tape -------------------------------------------------------------------------------------------------------

    def start_tape(self) -> None:
        """From here on what is appended goes on the tape; norms made ahead, whose backward part is lost, are forgotten."""
        self.tape = []
        self._normed.clear()

    def run_tape(self) -> None:
        """Append the backward kernels of all that is on the tape, last first."""
        for back in reversed(self.tape or []):
            back()
        if self.tape is not None:
            self.tape.clear()

    def _later(
        self, sources: tuple[Buffer, ...], y: Buffer, back: Callable[[Buffer], None], trained: bool = False
    ) -> None:
        """Puts on the tape what takes y's gradient to its sources, where it leads to anything that is trained."""
        if not (trained or any(self.grads.needed(x) for x in sources)):
            return
        self.grads.need(y)
        if self.tape is None:
            return

        def run() -> None:
            with self.grads.taken(y) as g:
                if g is not None:
                    back(g)

        self.tape.append(run)

    def _norm_back(self, x: Buffer, w: Buffer, g: Buffer) -> None:
        dx, accumulate = self.grads.into(x)
        self.chain.rms_norm_backward(x=x, w=w, g=g, dx=dx, eps=self.cfg.norm_eps, accumulate=int(accumulate))

    def _gated(self, x: Buffer, kernel: str) -> Buffer:
        y = self._new(x.shape[0], x.shape[1] // 2)
        self.chain.dispatch(kernel, x=x, y=y)

        def back(g: Buffer) -> None:
            self.chain.dispatch(f"{kernel}_backward", x=x, g=g)  # x becomes its own gradient: nobody reads it again
            self.grads.give(x, x)

        self._later((x,), y, back)
        return y

    def _new(self, *shape: int) -> Buffer:
        return self.chain.scratch(shape, "f32")


class _Adapted:
    """The adapter's part of a product: columns at..at+out of y."""

    def __init__(self, step: TrainStep, pair: Pair, x: Buffer, y: Buffer, at: int) -> None:
        self.step, self.pair, self.x, self.at, self.width = step, pair, x, at, y.shape[1]
        self.u = step._new(x.shape[0], pair.a.shape[0])
        dropped = self._dropped()
        gemm(step.chain, a=dropped, b=pair.a, c=self.u, m=self.tokens, n=self.rank, k=self.n_in, tb=True)
        gemm(
            step.chain, a=self.u, b=pair.b, c=y, m=self.tokens, n=self.n_out, k=self.rank, tb=True, alpha=pair.scale,
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
        step, pair, chain = self.step, self.pair, self.step.chain
        du = step._new(self.tokens, self.rank)
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
        whole = step._new(*self.x.shape)
        gemm(chain, a=du, b=pair.a, c=whole, m=self.tokens, n=self.n_in, k=self.rank)
        self._drop(whole, dx, accumulate)

    def _dropped(self) -> Buffer:
        if not self.step.dropout:
            return self.x
        y = self.step._new(*self.x.shape)
        self._drop(self.x, y, False)
        return y

    def _drop(self, x: Buffer, y: Buffer, accumulate: bool) -> None:
        step = self.step
        step.chain.dropout(
            x=x, y=y, counter=step.rows.counter, site=self.pair.site, rate=step.dropout, accumulate=int(accumulate)
        )


class Gradients:
    """The gradients of a step's buffers while they are summed up, and which buffers need one.

    A gradient may be handed on as it is (a residual's is its sum's), so one buffer may stand for several; it is copied
    before one of them is added to.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._held: dict[int, Buffer] = {}
        self._needed: dict[int, Buffer] = {}  # keeps the buffers alive, so that an id means one of them
        self._read: Buffer | None = None  # being gone back from

    def need(self, x: Buffer) -> None:
        self._needed[id(x)] = x

    def needed(self, x: Buffer) -> bool:
        return id(x) in self._needed

    def take(self, y: Buffer) -> Buffer | None:
        """The gradient of y, whose sum is complete; None where nothing reached it."""
        return self._held.pop(id(y), None)

    @contextmanager
    def taken(self, y: Buffer) -> Iterator[Buffer | None]:
        """The same; inside, it is not added to, whatever else it stands for."""
        self._read = self.take(y)
        try:
            yield self._read
        finally:
            self._read = None

    def into(self, x: Buffer) -> tuple[Buffer, bool]:
        """Where to put a contribution to the gradient of x, and whether to add it to what is there."""
        held = self._held.get(id(x))
        if held is None:
            self._held[id(x)] = new = self.chain.scratch(x.shape, "f32")
            return new, False
        if held is self._read or sum(other is held for other in self._held.values()) > 1:
            own = self.chain.scratch(x.shape, "f32")
            self.chain.copy(src=held, dst=own)
            self._held[id(x)] = held = own
        return held, True

    def give(self, x: Buffer, g: Buffer) -> None:
        """A whole contribution to the gradient of x, in a buffer that may be kept and changed."""
        if not self.needed(x):
            return
        if g.shape != x.shape:
            raise ArgumentError(f"the gradient of {x} has shape {list(g.shape)}")
        if id(x) not in self._held:
            self._held[id(x)] = g
            return
        held, _ = self.into(x)
        self.chain.add(a=held, b=g, y=held)


def build_train_step(
    chain: Chain,
    cfg: ModelConfig,
    weights: Weights,
    rows: Rows,
    pairs: dict[str, Pair],
    loss: Buffer,
    *,
    backward: bool = True,
    recompute: bool = False,
    dropout: float = 0.0,
) -> None:
    """Append forward and backward of a micro-batch: loss f32[T] by row, gradients added to those of the pairs.

    recompute: keep only each layer's input and run the layer's forward part again in front of its backward part
    (Chen et al. 2016, arXiv 1604.06174): less memory, about a third more work.
    """
    layer = architecture(cfg.arch).layer
    start = len(chain)
    step = TrainStep(chain, cfg, weights, rows, pairs, dropout, tape=[] if backward and not recompute else None)
    chain.scope("forward")
    x = step.embed()
    inputs: list[Buffer] = []
    for i in range(cfg.n_layers):
        inputs.append(x)
        x = layer(step, i, x)
    chain.scope("head")
    if recompute and backward:
        step.start_tape()
    step.head(x, loss, backward)
    if backward:
        chain.scope("backward")
        step.run_tape()
        if recompute:
            g = step.grads.take(x)
            for i in reversed(range(cfg.n_layers)):
                if g is None:
                    break
                g = _layer_again(step, layer, i, inputs[i], g)
    drop_dead(chain, start)


def _layer_again(step: TrainStep, layer: Layer, i: int, x: Buffer, g: Buffer) -> Buffer | None:
    """Layer i's forward part with a tape, and its backward part: from the gradient of its output to that of its input."""
    again = TrainStep(step.chain, step.cfg, step.weights, step.rows, step.pairs, step.dropout, tape=[])
    if step.grads.needed(x):
        again.grads.need(x)
    step.chain.scope("recompute")
    y = layer(again, i, x)
    step.chain.scope("backward")
    again.grads.give(y, g)
    again.run_tape()
    return again.grads.take(x)
