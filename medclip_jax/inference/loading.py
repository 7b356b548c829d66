"""Trained encoders from disk: of a run's workdir, or of an export."""

from pathlib import Path
from typing import Any

from medclip_jax.config import read_config
from medclip_jax.convert.formats import safetensors_format
from medclip_jax.convert.initialize import INITIAL_ENCODERS
from medclip_jax.data.tokenizer import load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.inference.encoder import Encoder
from medclip_jax.inference.weights import require_finite_weights
from medclip_jax.train.checkpoint import Checkpointer


def load(directory: str | Path) -> Encoder:
    """The encoders of a workdir, or of an export with `--format safetensors`.

    Of a run it is the checkpoint of the lowest validation loss, else the last.

    Raises:
        UserError: the directory is neither, or holds no checkpoint, or a weight is not finite.
    """
    directory = Path(directory)
    encoder = _read(directory)
    require_finite_weights(encoder.variables, directory, encoder.step)
    return encoder


def _read(directory: Path) -> Encoder:
    if safetensors_format.is_export(directory):
        return safetensors_format.read(directory)
    config = read_config(directory / "config.json")
    tokenizer = load_tokenizer(directory / "tokenizer")
    variables, step = _best_checkpoint(directory / "checkpoints")
    initial = directory / INITIAL_ENCODERS
    return Encoder(config, tokenizer, variables, step, initial if initial.is_file() else None)


def _best_checkpoint(directory: Path) -> tuple[dict[str, Any], int]:
    """The variables and the step of the best checkpoint, also while the run goes on."""
    checkpointer = Checkpointer(directory, read_only=True) if directory.is_dir() else None
    step = checkpointer.best_step() if checkpointer else None
    if checkpointer is None or step is None:
        raise UserError(f"{directory} holds no checkpoint yet: let the run reach one")
    try:
        return checkpointer.restore_model(step), step
    except (OSError, ValueError):
        if (directory / str(step)).is_dir():
            raise
        return _best_checkpoint(directory)  # the run has a better one, and deleted this meanwhile
    finally:
        checkpointer.close()
