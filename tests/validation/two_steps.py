"""Run by test_validation.py: chains whose second step needs a barrier, with the barriers found or taken out.

    python two_steps.py RAW|WAR|WAW|indirect|copy kept|removed
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.chain import Planned


def main(hazard: str, barriers: str) -> None:
    device = Device()
    x, y, z = (device.array(np.ones((4, 256), np.float32)) for _ in range(3))
    grid = device.array(np.ones(3, np.uint32))
    chain = Chain(device)
    if hazard == "RAW":
        chain.add(a=x, b=x, y=y).add(a=y, b=x, y=z)
    elif hazard == "WAR":
        chain.add(a=x, b=y, y=z).add(a=x, b=x, y=y)
    elif hazard == "WAW":
        chain.fill(dst=z, value=0).add(a=x, b=x, y=z)  # between two kernels' writes the layer keeps silent by design
    elif hazard == "indirect":
        chain.fill(dst=grid, value=1).add(a=x, b=x, y=y, indirect=grid)
    else:
        chain.add(a=x, b=x, y=y).copy(src=y, dst=z)
    if barriers == "removed":
        planned: Planned = chain.plan()
        assert planned.barriers, "nothing to remove"
        bare = replace(planned, barriers={})
        chain.plan = lambda: bare  # type: ignore[method-assign]
    chain.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
