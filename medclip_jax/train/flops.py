"""How much a training step computes, and what share of the devices' peak that is (MFU).

Convention: that of PaLM, https://arxiv.org/abs/2204.02311, appendix B. Only what the model needs
counts: matrix products and convolutions, a multiplication with its addition as two operations, of
the forward and the backward pass. Recomputed layers and tiles do not count, nor do augmentation,
the optimiser and what works on single elements.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from medclip_jax import objectives
from medclip_jax.models.factory import build_model
from medclip_jax.models.parts import patch_size
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.state import Batch, dummy_batch, init_variables

# Dense peaks in TFLOP/s of each device that JAX lists: of bfloat16 products, and of float32 ones at
# JAX's default precision, which are TF32 on NVIDIA's GPUs and one bfloat16 pass on TPUs. The names
# are whole, so that no laptop, MIG slice or cut-down export model has its bigger sister's peak.
PEAKS: tuple[tuple[str, float, float], ...] = (
    # cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, "peak compute per chip"
    (r"TPU v4", 275, 275),
    (r"TPU v5 lite|TPU v5e", 197, 197),
    (r"TPU v5|TPU v5p", 459, 459),
    (r"TPU v6 lite|TPU v6e", 918, 918),
    # NVIDIA A100 datasheet; SXM and PCIe have the same peak
    (r"NVIDIA A100[ -].*(GB|PCIe)", 312, 156),
    # NVIDIA H100 datasheet, whose figures are with sparsity: half of 1979 and 989, of 1513 and 756
    # (PCIe), and of 1671 and 835 (NVL)
    (r"NVIDIA H100 80GB HBM3", 989.5, 494.5),
    (r"NVIDIA H100 PCIe", 756.5, 378),
    (r"NVIDIA H100 NVL", 835.5, 417.5),
    # NVIDIA H200 datasheet, likewise; the name of the NVL version is its own
    (r"NVIDIA H200", 989.5, 494.5),
    (r"NVIDIA H200 NVL", 835.5, 417.5),
    # NVIDIA L4 datasheet: half of 242 and 120, with sparsity
    (r"NVIDIA L4", 121, 60),
    # NVIDIA L40S datasheet, dense figures
    (r"NVIDIA L40S", 362.05, 183),
    # NVIDIA A10 datasheet, dense figures
    (r"NVIDIA A10", 125, 62.5),
    # Whitepapers of the GA102 and of the Ada architecture, dense, sums in float32
    (r"NVIDIA RTX A6000", 154.8, 77.4),
    (r"NVIDIA GeForce RTX 3090", 71, 35.6),
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6),
)


def peak_flops(device: jax.Device, dtype: DTypeLike) -> float | None:
    """Peak operations a second of products of matrices, without sparsity.

    Args:
        device: a JAX device, of which only the `device_kind` is read.
        dtype: what is multiplied, bfloat16 or float32; float32 at JAX's default precision.

    Returns:
        The peak, None for a CPU and for devices or types that `PEAKS` does not have.
    """
    column = {"bfloat16": 0, "float32": 1}.get(jnp.dtype(dtype).name)
    for pattern, *peaks in PEAKS:
        if column is not None and re.fullmatch(pattern, device.device_kind):
            return peaks[column] * 1e12
    return None


def mfu(flops: float, seconds: float, devices: int, peak: float) -> float:
    """The share of the peak that steps of `flops` in `seconds` each have reached.

    Args:
        flops: of one step of the global batch, by `train_step_flops`.
        seconds: that a step took.
        devices: number of devices that shared the step.
        peak: of one of them, by `peak_flops`.
    """
    return flops / (seconds * devices * peak)


def train_step_flops(config: ConfigDict, vocab_size: int) -> float:
    """The operations of one step of the global batch, by this file's convention.

    The loss is traced and differentiated with respect to what is trained, and the products in the
    result are counted; nothing is computed or compiled. A formula would have to be written anew for
    each objective. XLA's own count is not this convention's: it has one round of each loop, all
    that works on single elements, and convolutions without the zeros at the border, which
    published figures include (4.09 G multiplications of a ResNet-50 at 224 pixels).

    Args:
        config: of a run; what changes speed alone (remat, scan, tiles, microbatches) has no
            influence.
        vocab_size: number of the tokenizer's tokens.
    """
    plain = _plain(config)
    model = build_model(plain, vocab_size)
    batch = jax.eval_shape(lambda: _batch(plain))
    variables = jax.eval_shape(lambda batch: init_variables(model, 0, batch), batch)
    trainable, frozen = optimizers.split_frozen(variables["params"], plain.optimizer.frozen)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(
        trainable: optimizers.FlatParams,
        frozen: optimizers.FlatParams,
        batch_stats: dict[str, Any],
        batch: Batch,
        key: jax.Array,
    ) -> jax.Array:
        outputs, _ = model.apply(
            {
                "params": optimizers.unflatten_params(trainable | frozen),
                "batch_stats": batch_stats,
            },
            batch,
            train=True,
            rngs={"dropout": key, "negatives": key},
            mutable=["batch_stats"],
        )
        return objectives.total_loss(outputs, batch, plain.objectives)[0]

    step = jax.make_jaxpr(jax.value_and_grad(loss))
    closed = step(trainable, frozen, variables.get("batch_stats", {}), batch, key)
    return count_products(closed.jaxpr)


def _plain(config: ConfigDict) -> ConfigDict:
    """The config with each layer written out and nothing computed twice, for any device."""
    plain = ConfigDict(config.to_dict())
    plain.attention, plain.scan_layers = "xla", False
    for part in (plain.image_encoder, plain.text_encoder, plain.fusion):
        part.remat = False
    for options in plain.objectives.values():
        if "tile_size" in options:
            options.tile_size = 0
    return plain


def _batch(config: ConfigDict) -> Batch:
    """A batch as the model takes it, of the run's shapes and with all that masks may add."""
    rows, length = config.batch_size, config.text_encoder.max_length
    size, patch = config.augmentation.crop_size, patch_size(config)
    # How many labels there are only the data knows; one is enough, as nothing is learnt from them.
    batch = dummy_batch(size, length, num_labels=max(len(config.data.labels), 1), rows=rows)
    return batch | {
        "masked_token_ids": batch["token_ids"],
        "token_is_masked": batch["token_mask"],
        "image_in_view": batch["has_image"],
        "text_in_view": batch["has_text"],
        "patch_is_masked": jnp.zeros((rows, (size // patch) ** 2), bool),
    }


def count_products(jaxpr: core.Jaxpr) -> float:
    """The operations of the matrix products and convolutions on which a result depends.

    A loop with a number of rounds counts as often; one without counts once.
    """
    needed = {var for var in jaxpr.outvars if isinstance(var, core.Var)}
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        if needed.isdisjoint(equation.outvars):
            continue  # XLA drops it
        needed.update(var for var in equation.invars if isinstance(var, core.Var))
        total += _operations(equation)
    return total


def _operations(equation: core.JaxprEqn) -> float:
    primitive, parameters = equation.primitive, equation.params
    variables: Any = (*equation.invars, *equation.outvars)
    shapes = [var.aval.shape for var in variables]
    if primitive is jax.lax.dot_general_p:
        (contracted, _), _ = parameters["dimension_numbers"]
        return 2.0 * math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in contracted)
    if primitive is jax.lax.conv_general_dilated_p:
        # (output channels, input channels, rows, columns) of the kernel are in any order.
        _, *window = (shapes[1][axis] for axis in parameters["dimension_numbers"].rhs_spec)
        # The gradient of a stride has zeros between its entries, which are not multiplied.
        zeros = math.prod(parameters["lhs_dilation"])
        return 2.0 * math.prod(shapes[-1]) * math.prod(window) / zeros
    repeats = parameters["length"] if primitive.name == "scan" else 1
    return repeats * sum(count_products(inner) for inner in _inner(parameters))


def _inner(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an equation calls."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
