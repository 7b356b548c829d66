"""Runs functions of a model over many examples, in batches of one shape."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from medclip_jax.errors import UserError
from medclip_jax.finite import require_finite

DEFAULT_BATCH_SIZE = 64


def call(model: nn.Module, variables: Any, method: str, *arrays: Any) -> Any:
    """What a method of the model makes of the arrays."""
    return model.apply(variables, *arrays, method=method)


def rows_at_once(batch_size: int, num_items: int) -> int:
    """The rows of a batch that are of use; the default, for which a program may be compiled, stays.

    Raises:
        UserError: the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give 1 or above")
    return min(batch_size, max(DEFAULT_BATCH_SIZE, num_items))


def in_batches(
    run: Callable[..., Any],
    load_part: Callable[[Any], tuple[np.ndarray, ...]],
    items: Sequence[Any],
    batch_size: int,
    unit: str,
    progress: bool = False,
    *,
    names: Sequence[Any] = (),
) -> dict[str, np.ndarray]:
    """What `run` makes of all items, joined along the first axis.

    Args:
        run: maps arrays of `batch_size` rows to such arrays by name.
        load_part: makes the arrays of a part of the items.
        items: any number above none; the last batch is filled up, then cut.
        batch_size: rows of a batch; no more than there are items are padded and computed.
        unit: what the items are.
        progress: whether to show a bar.
        names: what an error calls the items, if not as they are.

    Raises:
        UserError: there are no items, the batch size is not positive, or what is made of one is
            not finite.
    """
    batch_size = rows_at_once(batch_size, len(items))
    results = []
    with tqdm(total=len(items), unit=unit, disable=not progress or None) as bar:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            arrays = load_part(part)
            padded = [np.resize(array, (batch_size, *array.shape[1:])) for array in arrays]
            outputs = run(*padded)
            results.append(jax.tree.map(operator.itemgetter(slice(len(part))), outputs))
            bar.update(len(part))
    if not results:
        raise UserError(f"there are no {unit} to read")
    fetched = jax.device_get(results)
    joined = {name: np.concatenate([part[name] for part in fetched]) for name in fetched[0]}
    for name, array in joined.items():
        if jnp.issubdtype(array.dtype, jnp.inexact):
            require_finite(array, f"values of {name}", names or items)
    return joined
