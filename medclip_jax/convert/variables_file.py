"""Flax variables as a safetensors file, by our own names: `params/image_encoder/…/kernel`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from medclip_jax.errors import UserError


def write_variables(path: Path, variables: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes nested arrays, bit by bit, and texts that go with them."""
    from safetensors.numpy import save_file

    arrays = {
        name: np.array(array, order="C") for name, array in flatten_dict(variables, sep="/").items()
    }
    save_file(arrays, path, metadata=dict(metadata))


def read_variables(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What `write_variables` wrote: the nested arrays, and the texts.

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return unflatten_dict(arrays, sep="/"), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or cut short; make it again ({error})") from error
