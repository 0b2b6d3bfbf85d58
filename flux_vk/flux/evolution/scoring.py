"""The population on the device: all programs at all recorded positions in one dispatch.

Not for: what the numbers are worth (fitness.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...gpu import Chain, Device
from ..instructions import decode
from ..interpreter import interpret
from ..lower import code_words, lower
from ..program import GPU_STEPS, Program
from .fitness import Fitness, Weights, marks
from .genome import MOST_BYTES
from .recording import Recording

LEAST = -50.0
"""The least log-likelihood of a position: what is less likely than e^-50 counts as that."""
NO_PICK = 0xFFFFFFFF


@dataclass(frozen=True)
class Outcome:
    """What P programs did at T positions.

    loglik: f32 [P, T]; pick: token ids u32 [P, T]; traps: u32 [P, T, 2], number of candidates that trapped and the
    largest trap.
    """

    loglik: npt.NDArray[np.float32]
    pick: npt.NDArray[np.uint32]
    traps: npt.NDArray[np.uint32]


class Scorer:
    """Scores up to `population` programs at a time; its chain is recorded once."""

    def __init__(self, device: Device, recording: Recording, population: int, max_steps: int = GPU_STEPS) -> None:
        self.recording = recording
        self._device = device
        self._words = code_words(MOST_BYTES)
        self._shape = (population, recording.positions)
        if max(self._shape) > 65535:
            raise InputError(f"{self._shape} programs and positions, expected at most 65535 of each")
        self._code = device.zeros((1, population, self._words), "u32")
        self._loglik = device.empty(self._shape, "f32")
        self._pick = device.empty(self._shape, "u32")
        self._traps = device.empty((*self._shape, 2), "u32")
        chain = Chain(device, name="fitness of a population")
        chain.dispatch(
            "flux_fitness", row_info=device.array(recording.row_info), cand=device.array(recording.cand),
            code=self._code, target=device.array(recording.target), base=device.array(recording.base),
            loglik=self._loglik, pick=self._pick, traps=self._traps, max_steps=max_steps, least=LEAST,
        )  # fmt: skip
        self._step = chain.record()

    def run(self, programs: Sequence[Program]) -> Outcome:
        """One dispatch. InputError for more programs than the scorer was made for, or one that is too long."""
        if not 0 < len(programs) <= self._shape[0]:
            raise InputError(f"{len(programs)} programs, expected 1 to {self._shape[0]}")
        code = np.zeros((1, self._shape[0], self._words), np.uint32)
        code[0, : len(programs)] = [lower(program, MOST_BYTES) for program in programs]
        self._device.upload(self._code, code.reshape(-1).view(np.uint8))
        self._step.submit()
        self._step.wait()
        n = len(programs)
        return Outcome(self._loglik.numpy()[:n], self._pick.numpy()[:n], self._traps.numpy()[:n])

    def fitness(self, programs: Sequence[Program], weights: Weights) -> list[Fitness]:
        """The marks of each program."""
        found = self.run(programs)
        candidates = int(self.recording.row_info[:, 0].sum())
        return [
            marks(
                weights, found.loglik[i], found.pick[i], int(found.traps[i, :, 0].sum()), candidates,
                self.recording.runs, len(decode(program.code).instructions),
            )
            for i, program in enumerate(programs)
        ]  # fmt: skip


def scores(
    device: Device, recording: Recording, programs: Sequence[Program], max_steps: int = GPU_STEPS
) -> npt.NDArray[np.float32]:
    """Each program's score of every candidate: f32 [P, T, C], minus infinity beyond a row's candidates."""
    t, c = recording.cand.shape[:2]
    code = np.stack([lower(program, MOST_BYTES) for program in programs])[None]
    score = device.zeros((t, len(programs), c), "f32")
    chain = Chain(device, name="scores of agents")
    interpret(
        chain, row_info=device.array(recording.row_info), cand=device.array(recording.cand),
        code=device.array(code), score=score, traps=device.zeros((t, len(programs), 2), "u32"), max_steps=max_steps,
    )  # fmt: skip
    chain.run()
    inside = np.arange(c)[None] < recording.row_info[:, :1]
    found = score.numpy().transpose(1, 0, 2)
    return np.where(inside[None], found, np.float32(-np.inf))
