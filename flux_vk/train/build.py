"""The chain of one micro-batch, forward and backward, with every activation kept or most of them computed again.

Not for: the kernels of a layer (step.py) and the optimiser (engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ..gpu.dead import drop_dead
from ..models.registry import architecture
from .step import TrainStep

if TYPE_CHECKING:
    from ..gpu import Buffer, Chain
    from ..models import ModelConfig
    from ..models.weights import Weights
    from .adapted import Pair
    from .step import Rows

Layer = Callable[[Any, int, "Buffer"], "Buffer"]


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
    (Chen et al. 2016, arXiv 1604.06174): less memory, about a quarter more work.
    """
    layer = cast("Layer", architecture(cfg.arch).layer)  # written for models.step.Step, whose vocabulary this is
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
    """Layer i once more with a tape, and backward: from the gradient of its output to that of its input."""
    again = TrainStep(step.graph, step.cfg, step.weights, step.batch, step.pairs, step.dropout, tape=[])
    if step.grads.needed(x):
        again.grads.need(x)
    step.graph.scope("recompute")
    y = layer(again, i, x)
    step.graph.scope("backward")
    again.grads.give(y, g)
    again.run_tape()
    return again.grads.take(x)
