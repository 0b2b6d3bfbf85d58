"""The forward pass of the tiny models in float64 PyTorch, from the formulas; autograd gives the gradients.

The tests' oracle for the training step. It reads neither the package nor its configuration: only the traits and the
values of tests/train/tiny_models.py. torch is imported here, so this module is imported late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.train.packed_rows import IGNORED, Packed
from tests.train.tiny_models import Tiny, float_tensors

Tensor = torch.Tensor
Pairs = Mapping[str, tuple[Tensor, Tensor]]


def leaf(values: Any) -> Tensor:
    """float64 tensor that gathers a gradient."""
    return torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True)


def leaves(lora: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Tensor, Tensor]]:
    """The A and B of every adapter as parameters."""
    return {name: (leaf(a), leaf(b)) for name, (a, b) in lora.items()}


class Oracle:
    """A tiny model in PyTorch: RMS norm (arXiv 1910.07467), rotary positions (2104.09864), grouped queries
    (2305.13245), gated units (2002.05202), LoRA (2106.09685)."""

    def __init__(self, m: Tiny) -> None:
        self.m = m
        self.w = {name: torch.tensor(v, dtype=torch.float64) for name, v in float_tensors(m).items()}

    def logits(self, batch: Packed, lora: Pairs, s: float) -> Tensor:
        """[T, vocab], after the model's last soft-cap."""
        m = self.m
        x = self.w["token_embd.weight"][batch.ids.astype(np.int64)] * m.embed_scale
        for i in range(m.layers):
            b = f"blk.{i}"
            x = x + self._post(self._attention(i, self._norm(x, f"{b}.attn_norm"), batch, lora, s),
                               f"{b}.post_attention_norm")  # fmt: skip
            x = x + self._post(self._mlp(b, self._norm(x, f"{b}.ffn_norm"), lora, s), f"{b}.post_ffw_norm")
        head = self.w["token_embd.weight" if m.tied else "output.weight"]
        return _cap(self._norm(x, "output_norm") @ head.T, m.final_softcap)

    def losses(self, batch: Packed, lora: Pairs, s: float) -> Tensor:
        """[T]: -log p(label), 0 where the label is ignored."""
        labels = torch.tensor(np.where(batch.labels == IGNORED, -100, batch.labels.astype(np.int64)))
        return F.cross_entropy(self.logits(batch, lora, s), labels, ignore_index=-100, reduction="none")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.m.eps) * self.w[f"{name}.weight"]

    def _post(self, x: Tensor, name: str) -> Tensor:
        return self._norm(x, name) if self.m.post_norms else x

    def _linear(self, x: Tensor, name: str, lora: Pairs, s: float) -> Tensor:
        y = F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))
        if f"{name}.weight" in lora:
            a, b = lora[f"{name}.weight"]
            y = y + s * F.linear(F.linear(x, a), b)
        return y

    def _attention(self, i: int, n: Tensor, batch: Packed, lora: Pairs, s: float) -> Tensor:
        m, b = self.m, f"blk.{i}"
        if m.fused:
            q, k, v = self._linear(n, f"{b}.attn_qkv", lora, s).split([m.q_width, m.kv_width, m.kv_width], -1)
        else:
            q, k, v = (self._linear(n, f"{b}.attn_{part}", lora, s) for part in "qkv")
        q, k, v = (x.view(len(batch), -1, m.head_dim) for x in (q, k, v))
        if m.qk_norm:
            q, k = self._norm(q, f"{b}.attn_q_norm"), self._norm(k, f"{b}.attn_k_norm")
        q, k = self._rotate(q, i, batch), self._rotate(k, i, batch)
        k, v = (x.repeat_interleave(m.heads // m.kv_heads, dim=1) for x in (k, v))
        scores = _cap(torch.einsum("thd,jhd->htj", q, k) / math.sqrt(m.head_dim), m.attn_softcap)
        p = scores.masked_fill(~self._visible(i, batch), -torch.inf).softmax(-1)
        y = torch.einsum("htj,jhd->thd", p, v).reshape(len(batch), -1)
        return self._linear(y, f"{b}.attn_output", lora, s)

    def _is_local(self, i: int) -> bool:
        return bool(self.m.local) and self.m.local[i]

    def _visible(self, i: int, batch: Packed) -> Tensor:
        """[T, T]: row t sees rows first[t]..t, in a windowed layer the last `window` of them."""
        t = np.arange(len(batch))
        behind = t[:, None] - t[None, :]
        seen = (behind >= 0) & (t[None, :] >= batch.first[:, None])
        return torch.tensor(seen & (behind < self.m.window) if self._is_local(i) else seen)

    def _rotate(self, x: Tensor, i: int, batch: Packed) -> Tensor:
        m = self.m
        base = m.local_base if m.local_base and self._is_local(i) else m.rope_base
        w = base ** (-torch.arange(0, m.n_rot, 2, dtype=torch.float64) / m.n_rot)
        if m.rope_factors:
            w = w / self.w["rope_factors_short.weight"]
        angle = torch.tensor(batch.pos.astype(np.float64))[:, None] * w
        turn = torch.polar(torch.full_like(angle, m.rope_mscale), angle)[:, None, :]
        turned, rest = x[..., : m.n_rot], x[..., m.n_rot :]
        pairs = turned.unflatten(-1, (2, -1)).transpose(-1, -2) if m.neox else turned.unflatten(-1, (-1, 2))
        pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        turned = (pairs.transpose(-1, -2) if m.neox else pairs).flatten(-2)
        return torch.cat([turned, rest], -1)

    def _mlp(self, b: str, n: Tensor, lora: Pairs, s: float) -> Tensor:
        if self.m.fused:
            gate, up = self._linear(n, f"{b}.ffn_up", lora, s).chunk(2, -1)
        else:
            gate, up = self._linear(n, f"{b}.ffn_gate", lora, s), self._linear(n, f"{b}.ffn_up", lora, s)
        h = (F.gelu(gate, approximate="tanh") if self.m.gelu else F.silu(gate)) * up
        return self._linear(h, f"{b}.ffn_down", lora, s)


def _cap(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap) if cap else x


def gradients(m: Tiny, lora: Mapping[str, tuple[Any, Any]], batch: Packed, s: float) -> tuple[Any, dict[str, Any]]:
    """(loss of each row float64[T], {name: (dA, dB) float64}) of the sum of the losses."""
    pairs = leaves(lora)
    rows = Oracle(m).losses(batch, pairs, s)
    rows.sum().backward()
    return rows.detach().numpy(), {name: (a.grad.numpy(), b.grad.numpy()) for name, (a, b) in pairs.items()}
