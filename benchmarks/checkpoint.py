"""How long a checkpoint holds up training, and how long restoring one takes."""

import tempfile
import time
from pathlib import Path

import jax

from medclip_jax import sharding
from medclip_jax.config import base_config
from medclip_jax.models.factory import build_model
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.state import TrainState, create_state, dummy_batch


def main(quick: bool = False) -> dict[str, float]:
    """Saves and restores ConVIRT's full-size state, or a tiny one; seconds and their share."""
    state = _state(quick)
    gibibytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**30
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(Path(folder) / "checkpoints")
        started = time.perf_counter()
        checkpointer.save(state, {"next_index": 0})
        blocking = time.perf_counter() - started
        checkpointer.wait()
        saving = time.perf_counter() - started
        started = time.perf_counter()
        jax.block_until_ready(checkpointer.restore(state)[0])
        restoring = time.perf_counter() - started
        checkpointer.close()
    results = {
        "state_gib": gibibytes,
        "save_blocks_training_s": blocking,
        "save_s": saving,
        "blocking_share": blocking / saving,
        "restore_s": restoring,
    }
    return results


def _state(quick: bool) -> TrainState:
    config, vocab_size = base_config(), 28_996
    if quick:
        vocab_size = 100
        config.image_encoder.update(name="resnet18", width=4)
        config.text_encoder.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
        config.augmentation.crop_size = 32
    model = build_model(config, vocab_size)
    batch = dummy_batch(config.augmentation.crop_size, config.text_encoder.max_length)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False))
    names = list(optimizers.flatten_params(variables["params"]))
    optimizer = optimizers.make_optimizer(config.optimizer, names)
    plateau = optimizers.make_plateau(config.schedule)
    mesh = sharding.make_mesh(config.mesh.to_dict())
    return create_state(model, optimizer, plateau, config, batch, mesh)
