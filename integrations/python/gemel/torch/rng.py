# SPDX-License-Identifier: Apache-2.0
"""The random number generators of a process: python, numpy, torch, accelerators.

``read`` gives plain values (see values.py), ``write`` sets them back bit for bit.
numpy is touched only when the program has imported it.
"""

from __future__ import annotations

import random
import sys

import torch


def read() -> dict:
    """The state of every generator that this process has."""
    version, internal, gauss = random.getstate()
    state = {"python": (version, internal, gauss), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        state["numpy"] = _read_numpy()
    for name, device in _accelerators():
        state[name] = torch.get_device_module(device).get_rng_state(device)
    return state


def write(state: dict) -> None:
    """Sets the generators; one that this process lacks is left out."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state and "numpy" in sys.modules:
        _write_numpy(state["numpy"])
    for name, device in _accelerators():
        if name in state:
            torch.get_device_module(device).set_rng_state(state[name], device)


def _read_numpy() -> tuple:
    name, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
    return str(name), keys.tobytes(), int(position), int(has_gauss), float(gauss)


def _write_numpy(state: tuple) -> None:
    numpy = sys.modules["numpy"]
    name, keys, position, has_gauss, gauss = state
    numpy.random.set_state((name, numpy.frombuffer(keys, numpy.uint32), position, has_gauss, gauss))


def _accelerators() -> list[tuple[str, torch.device]]:
    # Only devices in use: asking another one would create a context on it.
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator().type
    count = torch.accelerator.device_count()
    if kind == "cuda":
        used = [i for i in range(count) if torch._C._cuda_hasPrimaryContext(i)]
    else:
        used = [torch.accelerator.current_device_index()]
    return [(f"{kind}:{i}", torch.device(kind, i)) for i in used]
