"""The format `safetensors`: our own names and config, which `medclip_jax.load` reads back."""

from pathlib import Path

from medclip_jax.config import read_config, write_config
from medclip_jax.convert.outputs import Inputs, Outputs, our_outputs
from medclip_jax.convert.variables_file import read_variables, write_variables
from medclip_jax.data.tokenizer import load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.inference.encoder import Encoder

WEIGHTS = "model.safetensors"
_STEP = "medclip_jax_step"


def write(encoder: Encoder, output: Path) -> None:
    """Writes the weights, the config and the tokenizer into `output`."""
    write_variables(output / WEIGHTS, encoder.variables, {_STEP: str(encoder.step)})
    write_config(encoder.config, output / "config.json")
    encoder.tokenizer.save(output / "tokenizer", encoder.config.text_encoder.max_length)


def outputs(directory: Path, inputs: Inputs) -> Outputs:
    """What the model that was written makes of the inputs."""
    return our_outputs(read(directory), inputs)


def is_export(directory: Path) -> bool:
    """Whether the directory is an export, of whatever format, and not a run's workdir."""
    return (directory / WEIGHTS).is_file()


def read(directory: Path) -> Encoder:
    """What `write` wrote.

    Raises:
        UserError: it is an export of another format.
    """
    variables, metadata = read_variables(directory / WEIGHTS)
    if _STEP not in metadata:
        raise UserError(
            f"{directory} is an export for PyTorch; give a run's workdir, or an export with "
            "--format safetensors"
        )
    config = read_config(directory / "config.json")
    tokenizer = load_tokenizer(directory / "tokenizer")
    return Encoder(config, tokenizer, variables, int(metadata[_STEP]))
