"""A model's weights as a whole: what tells them from others, and whether they are of any use."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from medclip_jax.errors import UserError


def hash_weights(variables: Mapping[str, Any]) -> str:
    """The SHA-256 of all variables: names in order, types, shapes and bytes.

    It depends on nothing else: neither on the devices that they lie on, nor on whether they come
    from a run's workdir or its export.
    """
    digest = hashlib.sha256()
    for name, array in _arrays(variables):
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def require_finite_weights(variables: Mapping[str, Any], directory: Path, step: int) -> None:
    """Refuses weights of which one is not finite.

    Raises:
        UserError: it names the step and the arrays.
    """
    bad = [
        name
        for name, array in _arrays(variables)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all()
    ]
    if bad:
        raise UserError(
            f"{directory}: the weights of step {step} are not finite ({len(bad)} arrays, the first "
            f"{bad[0]}): the run has diverged; train on from an earlier step with "
            "pretrain --from-step N, or give another run"
        )


def _arrays(variables: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in sorted(flatten_dict(variables, sep="/").items()):
        yield name, np.asarray(array)
