"""The single measurements of `benchmarks.gpu`; each is run in a process of its own.

    python -m benchmarks.gpu_jobs '{"function": "jax_step", ...}'

prints the figures as one line of JSON. Memory is in MiB, and None where the device does not tell.
"""

import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from medclip_jax import losses, runtime, sharding
from medclip_jax.config import base_config, load_config
from medclip_jax.data.augment import Augmentation, augment
from medclip_jax.data.tokenizer import placeholder_tokenizer
from medclip_jax.train.flops import mfu, peak_flops, train_step_flops
from medclip_jax.train.state import create_state
from medclip_jax.train.step_parts import StepParts

VOCAB_SIZE = {"convirt": 28_996, "vit": 30_522}  # ClinicalBERT's and BERT's
TEMPERATURE = 0.07
MEBIBYTE = 2**20
WARM_UP, ROUNDS, STEPS = 3, 5, 4
Job = Mapping[str, Any]
Record = dict[str, Any]


def main(text: str) -> None:
    """Runs a job, which names a function of this file, and prints its figures."""
    job = json.loads(text)
    try:
        record = FUNCTIONS[job["function"]](job)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        record = {"rows": job["rows"], "out_of_memory": True}
    print(json.dumps(record), flush=True)


def jax_device(job: Job) -> Record:
    """The device that JAX takes, and versions."""
    device = jax.devices()[0]
    versions = {"jax": jax.__version__, "backend": device.client.platform_version}
    return {"platform": device.platform, "device": device.device_kind, "versions": versions}


def torch_device(job: Job) -> Record:
    """The version of PyTorch and the device that it takes."""
    import torch

    if job["tiny"]:
        return {"version": torch.__version__, "device": "cpu"}
    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} sees no GPU")
    return {"version": torch.__version__, "device": torch.cuda.get_device_name()}


def make_config(job: Job) -> ConfigDict:
    """The config of a step: `model`, `rows`, `dropout`, `attention`, `tiny`."""
    if job["model"] == "convirt":
        config = load_config("convirt.py")
    else:
        config = base_config()
        config.image_encoder.name, config.compute_dtype = "vit_base", "bfloat16"
    config.batch_size, config.attention = job["rows"], job["attention"]
    if not job["dropout"]:
        config.text_encoder.dropout_rate = 0.0
    if job["tiny"]:
        vit = {"name": "vit", "hidden_size": 16, "num_layers": 1, "num_heads": 2}
        resnet = {"name": "resnet18", "width": 4}
        config.image_encoder.update(resnet if job["model"] == "convirt" else vit)
        config.text_encoder.update(
            hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_length=8
        )
        config.projection.size, config.data.image_size, config.augmentation.crop_size = 8, 32, 32
    return config


def jax_step(job: Job) -> Record:
    """A train step of this package on one device, with its augmentation."""
    config, vocab_size = make_config(job), VOCAB_SIZE[job["model"]]
    mesh = sharding.make_mesh(config.mesh.to_dict())
    parts = StepParts.make(config, mesh, placeholder_tokenizer(vocab_size), num_labels=0)
    state = create_state(parts.model, parts.optimizer, parts.plateau, config, parts.example, mesh)
    batch = sharding.to_global(_batch(config, vocab_size), mesh)
    started = time.perf_counter()
    compiled = parts.train_step().lower(state, batch).compile()
    compile_seconds = time.perf_counter() - started
    held = [state]
    del state  # the step takes its memory

    def run() -> jax.Array:
        held[0], metrics = compiled(held[0], batch)
        return metrics["loss"]

    seconds, loss = _time(run, jax.block_until_ready)
    memory = {"planned_mib": _planned_mib(compiled), **_jax_memory()}
    flops, device = train_step_flops(config, vocab_size), jax.devices()[0]
    figures = _figures(config, seconds, flops, peak_flops(device, config.compute_dtype))
    others = {"augmentation_ms": _augmentation_ms(config, batch["image"])}
    return figures | memory | others | {"compile_seconds": compile_seconds, "loss": float(loss)}


def torch_step(job: Job) -> Record:
    """The same architecture, loss and optimiser in PyTorch; images come augmented."""
    import torch

    from benchmarks.torch_models import make_train_step, wait

    config, vocab_size = make_config(job), VOCAB_SIZE[job["model"]]
    device = torch.device("cpu" if job["tiny"] else "cuda")
    rows, size = config.batch_size, config.augmentation.crop_size
    arrays = _batch(config, vocab_size)
    batch = {
        "pixels": torch.randn(rows, 1, size, size, device=device),
        "token_ids": torch.tensor(arrays["token_ids"], dtype=torch.long, device=device),
        "token_mask": torch.tensor(arrays["token_mask"], device=device),
    }
    started = time.perf_counter()
    step = make_train_step(config, vocab_size, batch, job["compiled"])
    step()
    wait(device)
    compile_seconds = time.perf_counter() - started
    if device.type == "cuda":  # what compilation tried out does not count
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, loss = _time(step, lambda _: wait(device))
    memory: Record = {"peak_mib": None, "limit_mib": None}
    peak = None
    if device.type == "cuda":
        memory["peak_mib"] = torch.cuda.max_memory_allocated() / MEBIBYTE
        memory["limit_mib"] = torch.cuda.mem_get_info()[1] / MEBIBYTE
        named: Any = types.SimpleNamespace(device_kind=torch.cuda.get_device_name())
        peak = peak_flops(named, config.compute_dtype)
    figures = _figures(config, seconds, train_step_flops(config, vocab_size), peak)
    others = {"compiled": job["compiled"], "compile_seconds": compile_seconds}
    return figures | memory | others | {"loss": float(loss)}


def jax_loss(job: Job) -> Record:
    """InfoNCE with its gradient, `kind` tiled or dense; of the dense one also how far they are."""
    tile_size = job["tile_size"] if job["kind"] == "tiled" else None
    image, text = _embeddings(job["rows"], job["dim"])
    compiled = _compiled_loss(image, text, tile_size)
    seconds, (loss, gradients) = _time(lambda: compiled(image, text), jax.block_until_ready)
    record = {"rows": job["rows"], "ms": 1000 * seconds, "planned_mib": _planned_mib(compiled)}
    record |= _jax_memory()
    if job["kind"] == "dense":
        other, others = _compiled_loss(image, text, job["tile_size"])(image, text)
        pairs = list(zip(gradients, others, strict=True))
        difference = max(float(jnp.abs(a - b).max()) for a, b in pairs)
        largest = max(float(jnp.abs(a).max()) for a, _ in pairs)
        record["loss_difference"] = abs(float(loss) - float(other))
        record["gradient_difference_over_largest"] = difference / largest
    return record


def _batch(config: ConfigDict, vocab_size: int) -> dict[str, np.ndarray]:
    """A batch as the input pipeline gives it: random images, and random texts of full length."""
    rng = np.random.default_rng(0)
    rows, size, length = config.batch_size, config.data.image_size, config.text_encoder.max_length
    return {
        "image": rng.integers(0, 256, (rows, size, size), np.uint8),
        "token_ids": rng.integers(5, vocab_size, (rows, length)).astype(np.int32),
        "token_mask": np.ones((rows, length), bool),
        "group_ids": np.arange(2 * rows, dtype=np.int32).reshape(rows, 2),
        "has_image": np.ones(rows, bool),
        "has_text": np.ones(rows, bool),
    }


def _embeddings(rows: int, dim: int) -> tuple[jax.Array, jax.Array]:
    """Pairs with a cosine similarity of about 0.3."""
    keys = jax.random.split(jax.random.key(0))
    image, noise = (jax.random.normal(key, (rows, dim)) for key in keys)
    return image, 0.3 * image + noise


def _compiled_loss(image: jax.Array, text: jax.Array, tile_size: int | None) -> jax.stages.Compiled:
    def loss(image: jax.Array, text: jax.Array) -> jax.Array:
        return losses.info_nce(image, text, temperature=TEMPERATURE, tile_size=tile_size)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(image, text).compile()


def _time(run: Callable[[], Any], wait: Callable[[Any], Any]) -> tuple[float, Any]:
    """Seconds of a run, the median of rounds of several that are waited for; the last result."""
    for _ in range(WARM_UP):
        result = run()
    wait(result)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(STEPS):
            result = run()
        wait(result)
        seconds.append((time.perf_counter() - started) / STEPS)
    return statistics.median(seconds), result


def _figures(config: ConfigDict, seconds: float, flops: float, peak: float | None) -> Record:
    return {
        "rows": config.batch_size,
        "images_per_second": config.batch_size / seconds,
        "ms": 1000 * seconds,
        "gflop": flops / 1e9,
        "mfu": None if peak is None else mfu(flops, seconds, 1, peak),
    }


def _augmentation_ms(config: ConfigDict, images: jax.Array) -> float:
    """The time of the augmentation alone, which is in that of the step."""
    augmentation = Augmentation.from_config(config.augmentation)
    run = jax.jit(lambda images: augment(images, jax.random.key(0), augmentation))
    return 1000 * _time(lambda: run(images), jax.block_until_ready)[0]


def _jax_memory() -> Record:
    """The most that was held since the start, compilation included, and what there is."""
    stats = jax.devices()[0].memory_stats() or {}
    names = {"peak_mib": "peak_bytes_in_use", "limit_mib": "bytes_limit"}
    return {ours: stats[name] / MEBIBYTE if name in stats else None for ours, name in names.items()}


def _planned_mib(compiled: jax.stages.Compiled) -> float | None:
    """What the program itself holds at once, inputs and outputs included."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return (held - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / MEBIBYTE


def _is_out_of_memory(error: Exception) -> bool:
    """Whether JAX, PyTorch, cuDNN or cuBLAS says so; each has an error of its own."""
    signs = ("RESOURCE_EXHAUSTED", "out of memory", "ALLOC_FAILED")
    return any(sign in str(error) for sign in signs)


FUNCTIONS: dict[str, Callable[[Job], Record]] = {
    function.__name__: function
    for function in (jax_device, torch_device, jax_step, torch_step, jax_loss)
}

if __name__ == "__main__":
    runtime.start()
    main(sys.argv[1])
