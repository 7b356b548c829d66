"""Memory and time of InfoNCE with its gradient: tiled, dense, and dense in PyTorch.

All figures come from one run, in which the implementations take turns: about two minutes on two CPU
cores.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import median_seconds
from medclip_jax import losses

TEMPERATURE = 0.07
MEBIBYTE = 2**20


def main(quick: bool = False) -> dict[str, float]:
    """Compares them at a batch of 16,384 and width 512, or of 1,024 and width 64."""
    size, dim, tile_size, rounds = (1_024, 64, 64, 1) if quick else (16_384, 512, 512, 5)
    image, text = embedding_pairs(size, dim)
    results = {"batch_size": size, "dim": dim, "tile_size": tile_size}
    return results | _compare(image, text, tile_size, rounds)


def embedding_pairs(size: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length pairs with a cosine similarity of about 0.3."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((size, dim), np.float32)
    text = 0.3 * image + rng.standard_normal((size, dim), np.float32)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (image, text)]
    return unit[0], unit[1]


def _compare(image: np.ndarray, text: np.ndarray, tile_size: int, rounds: int) -> dict[str, float]:
    dense, tiled = _compile(image, text, None), _compile(image, text, tile_size)
    arguments = (jnp.asarray(image), jnp.asarray(text))
    gradients = dense(*arguments)[1], tiled(*arguments)[1]
    difference = max(float(jnp.abs(a - b).max()) for a, b in zip(*gradients, strict=True))
    largest = max(float(jnp.abs(gradient).max()) for gradient in gradients[0])
    memory = {"dense": _temporary_mib(dense), "tiled": _temporary_mib(tiled)}
    runs: dict[str, Callable[[], Any]] = {
        "dense": lambda: jax.block_until_ready(dense(*arguments)),
        "tiled": lambda: jax.block_until_ready(tiled(*arguments)),
    }
    if importlib.util.find_spec("torch") is not None:
        runs["pytorch"] = _pytorch(image, text)
    growth = {f"{name}_resident_mib": _resident_growth(run) for name, run in runs.items()}
    seconds = median_seconds(runs, rounds)
    ratios = {f"tiled_time_over_{name}": seconds["tiled"] / seconds[name] for name in seconds}
    del ratios["tiled_time_over_tiled"]
    return {
        "tiled_memory_over_dense": memory["tiled"] / memory["dense"],
        **ratios,
        "gradient_difference": difference,
        "gradient_difference_over_largest": difference / largest,
        **{f"{name}_temporary_mib": value for name, value in memory.items()},
        **growth,
        **{f"{name}_seconds": value for name, value in seconds.items()},
    }


def _compile(image: np.ndarray, text: np.ndarray, tile_size: int | None) -> jax.stages.Compiled:
    def loss(image: jax.Array, text: jax.Array) -> jax.Array:
        return losses.info_nce(image, text, temperature=TEMPERATURE, tile_size=tile_size)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(image, text).compile()


def _temporary_mib(compiled: jax.stages.Compiled) -> float:
    """The memory that the compiler sets aside besides inputs and outputs; NaN if it cannot say."""
    analysis = compiled.memory_analysis()
    return float("nan") if analysis is None else analysis.temp_size_in_bytes / MEBIBYTE


def _pytorch(image: np.ndarray, text: np.ndarray) -> Callable[[], Any]:
    """CLIP's loss as everybody writes it (arXiv 2103.00020, figure 3), with its gradient."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    leaves = [torch.tensor(values, requires_grad=True) for values in (image, text)]
    target = torch.arange(len(image))

    def run() -> list[Any]:
        logits = normalize(leaves[0], dim=1) @ normalize(leaves[1], dim=1).T / TEMPERATURE
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        return list(torch.autograd.grad(loss, leaves))

    return run


def _resident_growth(run: Callable[[], Any]) -> float:
    """By how many MiB the process grows at most during a run; NaN where Linux's /proc is not.

    A lower bound of what the run needs: memory that the allocator kept from before is used again.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    reset.write_text("5")
    before = _status_mib(status, "VmRSS")
    run()
    return _status_mib(status, "VmHWM") - before


def _status_mib(status: Path, field: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
