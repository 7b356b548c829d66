"""A train step of ConVIRT's demo size against the same architecture, loss and Adam in PyTorch.

Both encode the same batch without augmentation or dropout; steps of the two take turns.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import median_seconds
from medclip_jax import losses
from medclip_jax.config import base_config
from medclip_jax.models.factory import build_model
from medclip_jax.train.state import quick_compilation

VOCAB_SIZE, LENGTH = 1024, 32
BERT = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 512}


def main(quick: bool = False) -> dict[str, float]:
    """ResNet-18 at 112 pixels and a small BERT: milliseconds and their ratio.

    Args:
        quick: two images of 32 pixels.
    """
    batch_size, size, rounds = (2, 32, 1) if quick else (32, 112, 7)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch_size, size, size, 1), np.float32)
    token_ids = rng.integers(5, VOCAB_SIZE, (batch_size, LENGTH))
    steps = {"jax": _jax_step(image, token_ids), "torch": _torch_step(image, token_ids)}
    seconds = median_seconds(steps, rounds)
    results = {f"{name}_ms": 1000 * value for name, value in seconds.items()}
    results["torch_over_jax"] = seconds["torch"] / seconds["jax"]
    return results


def _jax_step(image: np.ndarray, token_ids: np.ndarray) -> Callable[[], float]:
    config = base_config()
    config.image_encoder.name = "resnet18"
    config.text_encoder.update(BERT, dropout_rate=0.0)
    config.augmentation.crop_size = image.shape[1]
    model = build_model(config, VOCAB_SIZE)
    batch = {
        "image": jnp.asarray(image),
        "token_ids": jnp.asarray(token_ids),
        "token_mask": jnp.ones(token_ids.shape, bool),
        "has_image": jnp.ones(len(image), bool),
        "has_text": jnp.ones(len(image), bool),
    }
    init = jax.jit(
        lambda: model.init(jax.random.key(0), batch, train=False),
        compiler_options=quick_compilation(),
    )
    variables = init()
    optimizer = optax.adam(1e-4)

    @jax.jit
    def step(variables: Any, opt_state: Any) -> tuple[Any, Any, jax.Array]:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            outputs, updated = model.apply(
                {**variables, "params": params},
                batch,
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=["batch_stats"],
            )
            loss, _ = losses.info_nce(
                outputs["image_embeddings"], outputs["text_embeddings"], temperature=0.1
            )
            return loss, updated

        (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state, loss

    state = [variables, optimizer.init(variables["params"])]

    def run() -> float:
        state[0], state[1], loss = step(*state)
        return float(loss)

    return run


def _torch_step(image: np.ndarray, token_ids: np.ndarray) -> Callable[[], float]:
    import torch
    from torch.nn import functional

    from benchmarks.torch_models import TwoTowers

    torch.manual_seed(0)
    model = TwoTowers(vocab_size=VOCAB_SIZE, length=LENGTH, **BERT)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    pixels = torch.tensor(image.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    tokens, labels = torch.tensor(token_ids), torch.arange(len(image))

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(pixels, tokens) / 0.1
        loss = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
        (loss / 2).backward()
        optimizer.step()
        return float(loss.detach()) / 2

    return run
