"""`medclip-jax export`: a trained model as a directory that others load."""

import importlib
import shutil
from pathlib import Path
from typing import Any

from medclip_jax.convert.model_card import write_model_card
from medclip_jax.convert.verify import format_differences, verify
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder, load
from medclip_jax.output_files import check_folder

FORMATS = ("torchvision", "timm", "huggingface", "safetensors")


def export(checkpoint: Path, format_name: str, output: Path, *, check: bool = False) -> None:
    """Writes a run's model in a format, with a model card; prints what was compared.

    A new directory appears whole or not at all; an empty one is filled when all is written.

    Args:
        checkpoint: a run's workdir, or an export with the format "safetensors".
        format_name: one of `FORMATS`.
        output: a directory that is not there, or empty.
        check: whether to run PyTorch on the export and to compare every output with ours.

    Raises:
        UserError: an argument is wrong, the format has no place for the model, or the check fails.
    """
    if format_name not in FORMATS:
        raise UserError(f"--format {format_name}: give one of {', '.join(FORMATS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} is not empty: give a new directory")
    target = output.resolve()  # "." has no name of its own
    check_folder(target.parent, "--output in")
    encoder = load(checkpoint)
    module = importlib.import_module(f"medclip_jax.convert.formats.{format_name}_format")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        module.write(encoder, unfinished)
        write_model_card(encoder, checkpoint, format_name, unfinished)
        if target.exists():  # it stays the same folder, in which the user's shell may be
            for path in unfinished.iterdir():
                path.rename(target / path.name)
        else:
            unfinished.rename(target)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{output}: step {encoder.step} of {checkpoint}, format {format_name}")
    if check:
        check_export(encoder, output, module)


def check_export(encoder: Encoder, output: Path, module: Any) -> None:
    """Prints how far the export's outputs are from ours.

    Raises:
        UserError: one is further than the tolerance, or a library is missing.
    """
    try:
        differences = verify(encoder, output, module.outputs)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--verify needs PyTorch and the format's library: pip install 'medclip_jax[torch]' "
            f"({reason})"
        ) from error
    print(format_differences(differences))
    far = [difference.output for difference in differences if not difference.is_close]
    if far:
        raise UserError(f"{output} computes otherwise than the checkpoint: {', '.join(far)}")
