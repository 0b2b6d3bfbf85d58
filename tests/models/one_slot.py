"""One sequence on the GPU step, without the engine: pages in a fixed odd order, prefill in chunks, decode by argmax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Arena, Chain, Device, Recorded
from flux_vk.models import StepIO, build_step, load_weights, read_config

PAGE = 32


class OneSlot:
    """A model with one sequence. Use as a context manager; `reset` begins another sequence."""

    def __init__(
        self, device: Device, path: Path, *, context: int = 512, kv_type: str = "f32", max_rows: int = 64
    ) -> None:
        self.file = open_gguf(path)
        self.device = device
        self.cfg = read_config(self.file)
        self.weights = load_weights(device, self.file, self.cfg, context=context)
        self.max_rows = max_rows
        self.arena = Arena(device)
        self.length = 0
        self._recorded: dict[tuple[int, int], Recorded] = {}
        n_pages = -(-context // PAGE)
        shape = (n_pages, self.cfg.n_kv_heads, PAGE, self.cfg.head_dim)
        order = np.arange(n_pages, dtype=np.uint32)[::-1].reshape(1, -1)
        self.io = StepIO(
            ids=device.host((max_rows,), "u32"),
            pos=device.host((max_rows,), "u32"),
            slot=device.host((max_rows,), "u32"),
            logit_rows=device.host((max_rows,), "u32"),
            pages=device.array(order),
            slot_info=device.array(np.zeros((1, 4), np.uint32)),
            kcache=[device.filled(shape, kv_type, 0xFF) for _ in range(self.cfg.n_layers)],
            vcache=[device.filled(shape, kv_type, 0xFF) for _ in range(self.cfg.n_layers)],
            logits=device.host((max_rows, self.cfg.vocab_size), "f32"),
        )

    def __enter__(self) -> OneSlot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def reset(self) -> None:
        self.length = 0

    def chain(self, rows: int, n_logits: int) -> Chain:
        chain = Chain(self.device, arena=self.arena)
        build_step(chain, self.cfg, self.weights, self.io, rows=rows, n_logits=n_logits)
        return chain

    def step(self, ids: npt.NDArray[Any], logit_rows: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Feeds up to max_rows tokens; logits of all rows (None) or of those named."""
        rows = len(ids)
        wanted = rows if logit_rows is None else len(logit_rows)
        self.io.ids.view()[:rows] = ids
        self.io.pos.view()[:rows] = np.arange(self.length, self.length + rows)
        if logit_rows is not None:
            self.io.logit_rows.view()[:wanted] = logit_rows
        key = (rows, wanted)
        if key not in self._recorded:
            self._recorded[key] = self.chain(*key).record()
        self._recorded[key].submit()
        self._recorded[key].wait()
        self.length += rows
        return self.io.logits.view()[:wanted].copy()

    def prefill(self, ids: npt.ArrayLike, chunk: int | None = None) -> npt.NDArray[np.float32]:
        """Logits of every position, computed in chunks."""
        ids, chunk = np.asarray(ids), chunk or self.max_rows
        return np.concatenate([self.step(ids[i : i + chunk]) for i in range(0, len(ids), chunk)])

    def greedy(self, logits: npt.NDArray[np.float32], n: int) -> tuple[list[int], npt.NDArray[np.float32]]:
        """n tokens by argmax, beginning with `logits` [vocab]; also the logits that chose the last one."""
        out = [int(logits.argmax())]
        while len(out) < n:
            logits = self.step(np.array(out[-1:]))[0]
            out.append(int(logits.argmax()))
        return out, logits
