"""The layers of a transformer one after the other: written out, or compiled once and scanned.

Also what recomputation in the backward pass ("remat") keeps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medclip_jax.models.layers import Attention, in_view_first

RematPolicy = Literal["nothing", "dots"]


def _is_product(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """Whether this is a convolution or a product with a matrix of parameters.

    The products within attention are none: they are cheap to repeat, and its weights, a number for
    each head, query and key, are most of what there is to keep.
    """
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return dots(primitive, *arguments, **parameters)


# What a layer that is recomputed keeps: nothing but its input, or also the results of products, so
# that hardly more than norms and activations is computed again.
REMAT_POLICIES: dict[RematPolicy, Callable[..., bool]] = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": _is_product,
}


class Transformer(Protocol):
    """What `apply_layers` reads of a module."""

    num_layers: int
    remat: bool
    remat_policy: RematPolicy
    scan_layers: bool
    attention: Attention


def apply_layers(
    transformer: Any,
    layer: partial[Any],
    x: Float[Array, "batch length channels"],
    mask: Bool[Array, "batch length"] | None,
    deterministic: bool,
) -> Float[Array, "batch length channels"]:
    """The layers of a transformer, whose parameters are `layer_0`, `layer_1` and so on.

    Where `scan_layers` is true, one layer is compiled and runs for all, with their parameters
    stacked for as long as the step takes: a program of a fraction of the size, for one more copy
    of the parameters and of their gradients, those of frozen layers too. The outputs are the same;
    what dropout leaves out is drawn from other keys, as reproducibly.

    Args:
        transformer: a `Transformer` module, in a compact method of which this is called.
        layer: makes a layer, a module of parameters alone that maps (x, mask, deterministic) to x.
        x: the tokens.
        mask: false on the tokens to which none attends.
        deterministic: no dropout; else the "dropout" key is needed.
    """
    options: Transformer = transformer
    # Initialisation makes each layer's parameters under its own name.
    scan = options.scan_layers and options.num_layers > 1 and not transformer.is_initializing()
    layers = partial(
        _scan_layers if scan else _write_out_layers,
        transformer,
        layer,
        REMAT_POLICIES[options.remat_policy] if options.remat else None,
        deterministic,
    )
    return in_view_first(layers, x, mask) if options.attention == "cudnn" else layers(x, mask)


def _write_out_layers(
    transformer: Any,
    layer: partial[Any],
    policy: Callable[..., bool] | None,
    deterministic: bool,
    x: Float[Array, "batch length channels"],
    mask: Bool[Array, "batch length"] | None,
) -> Float[Array, "batch length channels"]:
    """Layer by layer; `policy` says what is kept of each, None is all."""
    make: Callable[..., nn.Module] = layer.func
    if policy is not None:
        make = nn.remat(layer.func, static_argnums=(3,), policy=policy)
    for index in range(transformer.num_layers):
        module: Any = make(*layer.args, **layer.keywords, name=f"layer_{index}")
        x = module(x, mask, deterministic)
    return x


def _scan_layers(
    transformer: Any,
    layer: partial[Any],
    policy: Callable[..., bool] | None,
    deterministic: bool,
    x: Float[Array, "batch length channels"],
    mask: Bool[Array, "batch length"] | None,
) -> Float[Array, "batch length channels"]:
    """A scan of one layer over the parameters of all; `policy` as above."""
    module, params = layer(parent=None), transformer.variables["params"]
    layers = [params[f"layer_{index}"] for index in range(transformer.num_layers)]
    keys = None
    if not deterministic and transformer.has_rng("dropout"):
        keys = jax.random.split(transformer.make_rng("dropout"), len(layers))

    def apply(
        x: Float[Array, "batch length channels"], inputs: tuple[Any, Any]
    ) -> tuple[Float[Array, "batch length channels"], None]:
        params, key = inputs
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, x, mask, deterministic, rngs=rngs), None

    if policy is not None:
        # The scan's two loops already keep XLA from merging the second computation with the first.
        apply = jax.checkpoint(apply, policy=policy, prevent_cse=False)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return jax.lax.scan(apply, x, (stacked, keys))[0]
