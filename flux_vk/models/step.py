"""The chain of one forward step: a ragged batch of rows, each with a token, a position and a cache slot.

`Step` is the vocabulary in which the architectures' files write their layers. Not for: choosing rows and
pages (flux_vk.engine) or what happens with the logits (flux_vk.decode).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flux_vk.errors import ArgumentError
from flux_vk.gpu.fusion import fuse
from flux_vk.gpu.matmul import matmul
from flux_vk.models.registry import architecture

if TYPE_CHECKING:
    from flux_vk.gpu import Buffer, Chain
    from flux_vk.gpu.device import BaseDevice
    from flux_vk.models.config import ModelConfig
    from flux_vk.models.lora import LoraPart
    from flux_vk.models.weights import Weights

MAX_GROUP = 8
"""Most query heads that one workgroup of the attention kernel takes; more need too many registers."""

CHUNK_PAGES = {"cpu": 16, "gpu": 8}
"""Pages of a context that a workgroup of `attention` takes, by family of kernels. Part of the result's bits."""


@dataclass
class StepIO:
    """The buffers between a step and its surroundings; those of rows may have more rows than a step uses.

    ids, pos, slot u32[R]; logit_rows u32[M] (rows of the batch whose logits are wanted); pages u32[S, P] and
    slot_info u32[S, 4] as the attention kernel reads them; kcache, vcache: one [pages, kv_heads, page_size,
    head_dim] a layer, f16 or f32; logits f32[M, V].

    Where workgroups are to share long contexts: grid u32[2, 4] as fetch_rows writes it (`grid_arguments`) and counters
    u32[rows * attention_blocks(cfg)], all 0. context: keys that a row sees where that is known, for the profile alone.
    """

    ids: Buffer
    pos: Buffer
    slot: Buffer
    logit_rows: Buffer
    pages: Buffer
    slot_info: Buffer
    kcache: list[Buffer]
    vcache: list[Buffer]
    logits: Buffer
    grid: Buffer | None = None
    counters: Buffer | None = None
    context: int = 1


def build_step(
    chain: Chain,
    cfg: ModelConfig,
    weights: Weights,
    io: StepIO,
    rows: int,
    n_logits: int | None = None,
    prompt: bool = False,
) -> None:
    """Appends a forward step over the first `rows` rows to a chain.

    n_logits: `rows` or None = logits of every row, in order; a smaller number = of the rows that io.logit_rows names;
    0 = none, the step only fills the cache. prompt: the rows are of prompts, which GPUs multiply by tiles (matmul_tile)
    in other arithmetic than a decode step's; on CPU drivers it makes no difference. Raises ArgumentError where sizes do
    not fit.
    """
    n_logits = rows if n_logits is None else n_logits
    if not 0 <= n_logits <= rows:
        raise ArgumentError(f"n_logits = {n_logits}: expected 0 to {rows}, the number of rows")
    if len(io.kcache) != cfg.n_layers or len(io.vcache) != cfg.n_layers:
        raise ArgumentError(f"StepIO has caches for {len(io.kcache)} layers; the model has {cfg.n_layers}")
    start = len(chain)
    step = Step(chain, cfg, weights, io, rows, n_logits, prompt)
    layer = architecture(cfg.arch).layer
    x = step.embed()
    for i in range(cfg.n_layers):
        x = layer(step, i, x)
    if n_logits:
        step.head(x)
    fuse(chain, start)


@dataclass
class Step:
    """One step being built.

    Methods append dispatches and return the buffer of the result, f32[rows, width].
    """

    chain: Chain
    cfg: ModelConfig
    weights: Weights
    io: StepIO
    rows: int
    n_logits: int
    prompt: bool = False
    _normed: dict[str, tuple[Buffer, Buffer]] = field(default_factory=dict)

    def embed(self) -> Buffer:
        """Rows of the token embedding, scaled as the model wants it."""
        x = self._new(self.rows, self.cfg.dim)
        ids = self.io.ids.rows(0, self.rows)
        self.chain.embed(ids=ids, w=self.weights["token_embd.weight"], y=x, scale=self.cfg.embed_scale)
        return x

    def rms_norm(self, x: Buffer, name: str) -> Buffer:
        """x / rms(x) * weight; nothing to do where `add` has made it already."""
        made = self._normed.pop(name, None)
        if made is not None and made[0] is x:
            return made[1]
        y = self._new(*x.shape)
        self.chain.rms_norm(x=x, w=self.weights[f"{name}.weight"], y=y, eps=self.cfg.norm_eps)
        return y

    def add_rms_norm(self, x: Buffer, r: Buffer, name: str) -> tuple[Buffer, Buffer]:
        """s = x + r and its norm."""
        s, y = self._new(*x.shape), self._new(*x.shape)
        self.chain.add_rms_norm(x=x, r=r, w=self.weights[f"{name}.weight"], s=s, y=y, eps=self.cfg.norm_eps)
        return s, y

    def add(self, x: Buffer, r: Buffer, next_norm: str) -> Buffer:
        """x + r. The norm that will be asked of it next is computed in the same pass."""
        s, y = self.add_rms_norm(x, r, next_norm)
        self._normed[next_norm] = (s, y)
        return s

    def linear(self, x: Buffer, *names: str, residual: Buffer | None = None) -> Buffer:
        """x W^T (+ bias where the file has one) (+ residual); results of several names side by side in one buffer.

        Names whose weights lie behind each other in memory (weights.JOINED) take one dispatch together.
        """
        parts: list[tuple[Buffer, Buffer | None]] = []
        for name in names:
            w, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
            if parts:
                joint, joint_bias = _joined(*parts[-1], w, bias)
                if joint is not None:
                    parts[-1] = joint, joint_bias
                    continue
            parts.append((w, bias))
        width = sum(w.shape[0] for w, _ in parts)
        y = self._new(x.shape[0], width)
        offset = 0
        for w, bias in parts:
            end: dict[str, Any] = {"bias": bias, "residual": residual, "y_stride": width, "y_offset": offset}
            matmul(self.chain, w=w, x=x, y=y, prompt=self.prompt, **end)
            offset += w.shape[0]
        self._adapt(x, y, names, self.prompt)
        return y

    def _adapt(self, x: Buffer, y: Buffer, names: tuple[str, ...], prompt: bool) -> None:
        """y += (x A^T) B^T where adapters change the weights of these names, whose results stand side by side in y.

        Names that lie behind each other in one B take one product with it, and one with its A.
        """
        runs: list[tuple[LoraPart, int, int, int]] = []  # part, rows of its B, column of y
        last, width = None, 0
        for name in names:
            part = self.weights.lora.get(name)
            if part is not None:
                start, stop = part.plan.rows[name]
                if runs and last is part and runs[-1][2] == start:
                    runs[-1] = (part, runs[-1][1], stop, runs[-1][3])
                else:
                    runs.append((part, start, stop, width))
            last = part
            width += self.weights[f"{name}.weight"].shape[0]
        reduced: dict[int, Buffer] = {}
        for part, start, stop, column in runs:
            if id(part) not in reduced:
                h = reduced[id(part)] = self._new(x.shape[0], part.plan.rank)
                matmul(self.chain, w=part.a, x=x, y=h, prompt=prompt)
            end: dict[str, Any] = {"residual": y, "y_stride": width, "y_offset": column}
            matmul(self.chain, w=part.b.rows(start, stop), x=reduced[id(part)], y=y, prompt=prompt, **end)

    def attention(self, i: int, qkv: Buffer) -> Buffer:
        """Norm (where there is one) and rotation of q and k, k and v into layer i's cache, attention over it."""
        cfg, io, layer = self.cfg, self.io, self.cfg.layers[i]
        rope, table = cfg.ropes[layer.rope], self.weights.ropes[layer.rope]
        kcache, vcache = io.kcache[i], io.vcache[i]
        place = {
            "pos": io.pos.rows(0, self.rows),
            "slot": io.slot.rows(0, self.rows),
            "pages": io.pages,
            "slot_info": io.slot_info,
            "kcache": kcache,
            "vcache": vcache,
        }
        norms = {}
        if cfg.qk_norm:
            norms["qnorm"] = self.weights[f"blk.{i}.attn_q_norm.weight"]
            norms["knorm"] = self.weights[f"blk.{i}.attn_k_norm.weight"]
        self.chain.rope_store(
            qkv=qkv,
            turns=table.turns,
            heads=cfg.n_heads,
            kv_heads=cfg.n_kv_heads,
            head_dim=cfg.head_dim,
            n_rot=rope.n_rot,
            mscale=table.mscale,
            eps=cfg.norm_eps,
            NEOX=int(rope.neox),
            WG=16 if self.chain.device.family == "cpu" else 32,
            PS=kcache.shape[2],
            **place,
            **norms,
        )
        y = self._new(self.rows, cfg.q_width)
        shape = attention_shape(self.chain.device, cfg.head_dim, kcache.dtype)
        self.chain.attention(
            q=qkv,
            y=y,
            heads=cfg.n_heads,
            kv_heads=cfg.n_kv_heads,
            scale=cfg.attn_scale,
            softcap=cfg.attn_softcap,
            window=layer.window,
            context=min(io.context, layer.window or io.context),
            HEAD_DIM=cfg.head_dim,
            GROUP=heads_per_workgroup(cfg.n_heads // cfg.n_kv_heads),
            PS=kcache.shape[2],
            **place,
            **shape,
            **self._split(layer.window, shape["CHUNK"]),
        )
        return y

    def _split(self, window: int, chunk: int) -> dict[str, Any]:
        """What `attention` needs where workgroups share a context; nothing where all fits one chunk."""
        io, chunks = self.io, -(-self.io.pages.shape[1] // chunk)
        if io.grid is None or io.counters is None or chunks <= 1:
            enough = io.counters is not None and io.counters.size >= self.rows * attention_blocks(self.cfg)
            return {"counters": io.counters} if enough else {}  # a fused kernel may want them (fuse_attention.py)
        return {
            "SPLIT": 1,
            "indirect": io.grid.rows(int(window > 0), int(window > 0) + 1).reshape(4),
            "partial": self._new(self.rows * self.cfg.n_heads * chunks, self.cfg.head_dim + 4),
            "counters": io.counters,
        }

    def output_rows(self, i: int, x: Buffer, a: Buffer) -> tuple[Buffer, Buffer]:
        """Keeps the rows of x and a whose logits are wanted: nothing else matters after the last attention.

        Without logits nothing matters any more; one row is carried on, which costs next to nothing.
        """
        if i + 1 < self.cfg.n_layers or self.n_logits == self.rows:
            return x, a
        if self.n_logits == 0:
            return x.rows(0, 1), a.rows(0, 1)
        return self._gather(x), self._gather(a)

    def swiglu(self, x: Buffer) -> Buffer:
        """silu(left half) * right half."""
        y = self._new(x.shape[0], x.shape[1] // 2)
        self.chain.swiglu(x=x, y=y)
        return y

    def geglu(self, x: Buffer) -> Buffer:
        """gelu(left half) * right half, GELU in its tanh form."""
        y = self._new(x.shape[0], x.shape[1] // 2)
        self.chain.geglu(x=x, y=y)
        return y

    def head(self, x: Buffer) -> None:
        """Output norm, output matrix and soft-cap, into io.logits; as in a decode step, whatever the rows are."""
        n = self.rms_norm(x, "output_norm")
        logits = self.io.logits.rows(0, self.n_logits)
        matmul(self.chain, w=self.weights["output.weight"], x=n, y=logits)
        self._adapt(n, logits, ("output",), prompt=False)
        if self.cfg.final_softcap:
            self.chain.softcap(x=logits, cap=self.cfg.final_softcap)

    def _gather(self, x: Buffer) -> Buffer:
        y = self._new(self.n_logits, x.shape[1])
        self.chain.gather(x=x, idx=self.io.logit_rows.rows(0, self.n_logits), y=y)
        return y

    def _new(self, *shape: int) -> Buffer:
        return self.chain.scratch(shape, "f32")


def heads_per_workgroup(group: int) -> int:
    """Query heads of one KV head that a workgroup of `attention` takes.

    All, or an even share of at most MAX_GROUP.
    """
    return -(-group // -(-group // MAX_GROUP))


def attention_blocks(cfg: ModelConfig) -> int:
    """Workgroups of `attention` for one row (and one chunk of its context)."""
    group = cfg.n_heads // cfg.n_kv_heads
    return cfg.n_kv_heads * -(-group // heads_per_workgroup(group))


def attention_shape(device: BaseDevice, head_dim: int, kv_type: str) -> dict[str, Any]:
    """Workgroup size, chunk and, on CPU drivers whose subgroups and head size allow it, the variant of eight lanes."""
    if device.family != "cpu":
        return {"WG": 32, "CHUNK": CHUNK_PAGES["gpu"]}
    wide = int(device.limits["subgroup_size"]) >= 8 and head_dim % 32 == 0
    if wide and device.features.issuperset(("int64", "subgroup_shuffle", "texel_buffers")):
        return {"WG": 8, "CHUNK": CHUNK_PAGES["cpu"], "variant": f"{kv_type}.lane"}
    return {"WG": 8, "CHUNK": CHUNK_PAGES["cpu"]}


def grid_arguments(device: BaseDevice, cfg: ModelConfig, page_size: int) -> dict[str, int]:
    """What `fetch_rows` needs besides its buffers to write a step's StepIO.grid.

    Layers with a smaller window than the largest have workgroups that find nothing to do; their results are the same.
    """
    windows = [layer.window for layer in cfg.layers]
    chunk = CHUNK_PAGES[device.family]
    return {"blocks": attention_blocks(cfg), "window": max(windows), "PS": page_size, "CHUNK": chunk}


def _joined(
    w: Buffer, bias: Buffer | None, next_w: Buffer, next_bias: Buffer | None
) -> tuple[Buffer | None, Buffer | None]:
    """Two neighbouring weights (and their biases) as one, or (None, None) where they do not lie behind each other."""
    joint = w.joined(next_w)
    if joint is None or (bias is None) != (next_bias is None):
        return None, None
    if bias is None or next_bias is None:
        return joint, None
    joint_bias = bias.joined(next_bias)
    return (None, None) if joint_bias is None else (joint, joint_bias)
