"""Whether all that a step computed is a number: its figures, and the state that it leaves behind.

The state is counted within the step, where XLA has the updated arrays at hand. A loss alone does
not tell: an update can ruin the parameters from which the next loss is computed, and an overflow in
the optimiser's state stops a parameter for good without one.
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
        return f"the update makes {count:.0f} entries of parameters or optimiser state not finite"
    return None
