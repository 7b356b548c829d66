"""A model's weights as a whole: what tells them from others, and whether they are of any use."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
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


def require_fitting_weights(
    variables: Mapping[str, Any], shapes_fn: Callable[[], Any], directory: Path
) -> None:
    """Refuses weights that are not those of the model that `config.json` describes.

    Args:
        variables: the weights.
        shapes_fn: gives the shapes that the model's variables have.
        directory: what both are from, for the message.

    Raises:
        UserError: it names the first array that is missing, is too many or has another shape.
    """
    try:
        expected = {name: leaf.shape for name, leaf in _leaves(shapes_fn())}
    except (ValueError, TypeError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{directory / 'config.json'} describes no model ({reason}): put it back as it was"
        ) from error
    found = {name: np.shape(leaf) for name, leaf in _leaves(variables)}
    different = sorted(
        name for name in expected.keys() | found if expected.get(name) != found.get(name)
    )
    if different:
        name = different[0]
        raise UserError(
            f"{directory}: the weights do not fit config.json and the tokenizer: {name} is "
            f"{found.get(name, 'missing')}, but should be {expected.get(name, 'missing')} "
            f"({len(different)} such arrays): put back the files as they were"
        )


def _leaves(variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from sorted(flatten_dict(variables, sep="/").items())


def _arrays(variables: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in _leaves(variables):
        yield name, np.asarray(array)
