"""Whether all that a step computed is a number: its figures, and the state that it leaves behind.

A loss alone does not tell: an update can ruin the parameters from which the next loss is computed.
So the updated parameters and statistics are counted within the step, where XLA has them at hand.
The optimiser's moments and the average of weights follow from what is checked: where a square of
the gradient overflows, so does the gradient's norm. (Counting them too made a step take a fifth
longer to compile.)
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# The figure of a step that is checked and not written.
NUM_NOT_FINITE = "num_not_finite"
_FIRST = ("loss", "gradient_norm")  # what says most


def num_not_finite(tree: Any) -> jax.Array:
    """The number of NaN and infinite entries in the floating arrays of a tree, a float32 scalar."""
    counts = [
        jnp.sum(~jnp.isfinite(leaf), dtype=jnp.float32)
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return sum(counts, jnp.float32(0))


def describe_problem(values: Mapping[str, float]) -> str | None:
    """What of a step's figures is not finite, in words, or None."""
    for name in (*_FIRST, *sorted(values)):
        if not math.isfinite(values.get(name, 0.0)):
            words = name.replace("/", " ").replace("_", " ")
            return f"the {words} is {values[name]}"
    if count := values.get(NUM_NOT_FINITE):
        return f"the update makes {count:.0f} entries of parameters or statistics not finite"
    return None
