"""Trained encoders from disk: of a run's workdir, or of an export."""

from pathlib import Path
from typing import Any

from medclip_jax.config import read_config
from medclip_jax.convert.formats import safetensors_format
from medclip_jax.convert.initialize import INITIAL_ENCODERS
from medclip_jax.data.tokenizer import load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.inference.encoder import Encoder
from medclip_jax.inference.weights import require_finite_weights, require_fitting_weights
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.checksums import find_damage, saved_steps


def load(directory: str | Path) -> Encoder:
    """The encoders of a workdir, or of an export with `--format safetensors`.

    Of a run it is the checkpoint of the lowest validation loss, else the last.

    Raises:
        UserError: the directory is neither, or holds no checkpoint; the checkpoint is damaged; or
            the weights do not fit the config, or are not finite.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"{directory} is not a run's workdir, nor an export: there is no such folder"
        )
    encoder = _read(directory)
    require_fitting_weights(encoder.variables, encoder.shapes, directory)
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
    checkpointer, step = _open(directory)
    try:
        return _read_whole(checkpointer, directory / str(step)), step
    except UserError:
        if (directory / str(step)).is_dir():
            raise
        return _best_checkpoint(directory)  # the run has a better one, and deleted this meanwhile
    finally:
        checkpointer.close()


def _open(directory: Path) -> tuple[Checkpointer, int]:
    """The checkpoints and the best step, for which Orbax reads the metrics beside each of them."""
    try:
        checkpointer = Checkpointer(directory, read_only=True) if saved_steps(directory) else None
        step = checkpointer.best_step() if checkpointer else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        for saved in saved_steps(directory):
            if damage := find_damage(directory / str(saved)):
                raise _damaged(directory / str(saved), damage) from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"{directory}: the best step cannot be told ({reason})") from error
    if checkpointer is None or step is None:
        raise UserError(f"{directory} holds no checkpoint yet: let the run reach one")
    return checkpointer, step


def _read_whole(checkpointer: Checkpointer, checkpoint: Path) -> dict[str, Any]:
    """The variables of a checkpoint; Orbax itself would take an array with a flipped bit.

    Raises:
        UserError: a file has changed or is gone, or what is there is no checkpoint.
    """
    if damage := find_damage(checkpoint):
        raise _damaged(checkpoint, damage)
    try:
        return checkpointer.restore_model(int(checkpoint.name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise _damaged(checkpoint, f"it cannot be read: {reason}") from error


def _damaged(checkpoint: Path, damage: str) -> UserError:
    others = [str(step) for step in saved_steps(checkpoint.parent) if str(step) != checkpoint.name]
    rest = f"use the best of the steps {', '.join(others)}" if others else "train on to another"
    return UserError(
        f"the checkpoint {checkpoint} is damaged ({damage}): put it back from a copy, or move it "
        f"out of {checkpoint.parent} to {rest}"
    )
