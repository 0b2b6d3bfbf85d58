"""Forward and backward of one micro-batch in a chain: the architectures' own layers, written down on a tape.

`TrainStep` speaks the vocabulary of models/step.py, so that every architecture's `layer` trains as it is. Each method
appends its forward kernels and puts on the tape what appends its backward kernels; running the tape in reverse makes
the second half of the chain. Not for: the optimiser and the buffers that outlive a step (engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..gpu.attention_train import attention_backward, attention_forward
from ..gpu.matmul_backward import matmul_backward
from ..gpu.matmul_train import matmul_train
from ..gpu.norm_rope_train import qk_rope, qk_rope_backward, rms_norm_backward
from .adapted import Adapted, Pair
from .gradients import Gradients

if TYPE_CHECKING:
    from ..gpu import Buffer, Chain
    from ..models import ModelConfig
    from ..models.weights import Weights

HEAD_ROWS = 64
"""Rows whose logits exist at a time. A multiple of 64: every tile then begins where a buffer may be bound."""


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

    # -- the vocabulary of models/step.py -----------------------------------------------------------------------------

    def embed(self) -> Buffer:
        """Rows of the token embedding; it is frozen, so nothing goes back through it."""
        x = self.new(self.rows.count, self.cfg.dim)
        self.chain.embed(ids=self.rows.ids, w=self.weights["token_embd.weight"], y=x, scale=self.cfg.embed_scale)
        return x

    def rms_norm(self, x: Buffer, name: str) -> Buffer:
        """x / rms(x) * weight."""
        made = self._normed.pop(name, None)
        if made is not None and made[0] is x:
            return made[1]
        y = self.new(*x.shape)
        w = self.weights[f"{name}.weight"]
        self.chain.rms_norm(x=x, w=w, y=y, eps=self.cfg.norm_eps, **self._norm_shape())
        self._later((x,), y, lambda g: self._norm_back(x, w, g))
        return y

    def add_rms_norm(self, x: Buffer, r: Buffer, name: str) -> tuple[Buffer, Buffer]:
        """s = x + r and its norm."""
        s, y = self.new(*x.shape), self.new(*x.shape)
        w = self.weights[f"{name}.weight"]
        self.chain.add_rms_norm(x=x, r=r, w=w, s=s, y=y, eps=self.cfg.norm_eps, **self._norm_shape())

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
        y = self.new(x.shape[0], sum(outs))
        at = 0
        for name, width in zip(names, outs, strict=True):
            w, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
            end: dict[str, Any] = {"bias": bias, "residual": residual, "y_stride": y.shape[1], "y_offset": at}
            matmul_train(self.chain, w=w, x=x, y=y, **end)
            at += width
        adapted, at = [], 0
        for name, width in zip(names, outs, strict=True):
            pair = self.pairs.get(f"{name}.weight")
            if pair is not None:
                adapted.append(Adapted(self, pair, x, y, at))
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
            "neox": rope.neox, **heads,
        }  # fmt: skip
        if cfg.qk_norm:
            turn["qnorm"] = self.weights[f"blk.{i}.attn_q_norm.weight"]
            turn["knorm"] = self.weights[f"blk.{i}.attn_k_norm.weight"]
        rule: dict[str, Any] = {"scale": cfg.attn_scale, "softcap": cfg.attn_softcap, "window": layer.window, **heads}
        qk = self.new(rows.count, cfg.q_width + cfg.kv_width)
        y, lse = self.new(rows.count, cfg.q_width), self.new(rows.count, cfg.n_heads)
        qk_rope(self.chain, qkv=qkv, qk=qk, **turn)
        attention_forward(self.chain, qk=qk, qkv=qkv, first=rows.first, y=y, lse=lse, **rule)

        def back(g: Buffer) -> None:
            dqk, dqkv = self.new(*qk.shape), self.new(*qkv.shape)
            attention_backward(
                self.chain, qk=qk, qkv=qkv, first=rows.first, last=rows.last, y=y, lse=lse, dy=g, dqk=dqk, dqkv=dqkv,
                **rule,
            )  # fmt: skip
            qk_rope_backward(self.chain, qkv=qkv, dqk=dqk, dqkv=dqkv, **turn)
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

    # -- the loss -----------------------------------------------------------------------------------------------------

    def head(self, x: Buffer, loss: Buffer, backward: bool) -> None:
        """Loss of every row, f32[T], by tiles of rows whose logits become their own gradient.

        Afterwards grads holds that of x, where it is needed.
        """
        n = self.rms_norm(x, "output_norm")
        w, dn = self.weights["output.weight"], None
        backward = backward and self.grads.needed(n)
        if backward:
            dn = self.new(*n.shape)
            self.grads.give(n, dn)
        for start in range(0, self.rows.count, HEAD_ROWS):
            stop = min(start + HEAD_ROWS, self.rows.count)
            logits = self.new(stop - start, w.shape[0])
            matmul_train(self.chain, w=w, x=n.rows(start, stop), y=logits)
            self.chain.cross_entropy(
                logits=logits, labels=self.rows.labels.rows(start, stop), loss=loss.rows(start, stop),
                softcap=self.cfg.final_softcap, GRAD=int(backward),
            )  # fmt: skip
            if dn is not None:
                matmul_backward(self.chain, w=w, g=logits, dx=dn.rows(start, stop))

    # -- the tape -----------------------------------------------------------------------------------------------------

    def start_tape(self) -> None:
        """From here on what is appended goes on the tape; norms made ahead, not on it, are forgotten."""
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

    def _norm_shape(self) -> dict[str, int]:
        """Many rows: on CPU drivers, where a barrier costs more than a sum, two subgroups each (measured: a third)."""
        return {"WG": 16} if self.chain.device.family == "cpu" else {}

    def _norm_back(self, x: Buffer, w: Buffer, g: Buffer) -> None:
        dx, accumulate = self.grads.into(x)
        rms_norm_backward(self.chain, x=x, w=w, g=g, dx=dx, eps=self.cfg.norm_eps, accumulate=int(accumulate))

    def _gated(self, x: Buffer, kernel: str) -> Buffer:
        y = self.new(x.shape[0], x.shape[1] // 2)
        self.chain.dispatch(kernel, x=x, y=y)

        def back(g: Buffer) -> None:
            self.chain.dispatch(f"{kernel}_backward", x=x, g=g)  # x becomes its own gradient: nobody reads it again
            self.grads.give(x, x)

        self._later((x,), y, back)
        return y

    def new(self, *shape: int) -> Buffer:
        """Scratch memory of the chain, f32."""
        return self.chain.scratch(shape, "f32")
