"""Which pairs of a batch are mismatched, and the choice of one for each row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def allowed_negatives(
    group_ids: Int[Array, "batch keys"],
    *,
    labels: Float[Array, "batch classes"] | None = None,
    row_ok: Bool[Array, " batch"],
    column_ok: Bool[Array, " batch"],
) -> Bool[Array, "batch batch"]:
    """True where the row and the column are of different pairs, and may be told apart.

    Args:
        group_ids: rows that agree in any of the columns are siblings (the same study, or the same
            sentence), as each row is of itself; they are no negatives of one another.
        labels: 1 positive, 0 negative, NaN unknown. If they are given, two rows with the same set
            of positive labels are no negatives either, as in MedViLL (Moon et al.,
            https://arxiv.org/abs/2105.11333): such a report may well describe the image.
        row_ok: false on rows that cannot be drawn for, such as those without an image.
        column_ok: false on columns that cannot be drawn, such as those without a text.
    """
    siblings = jnp.any(group_ids[:, None, :] == group_ids[None, :, :], axis=-1)
    allowed = ~siblings & row_ok[:, None] & column_ok[None, :]
    if labels is not None:
        positive = labels == 1
        allowed &= jnp.any(positive[:, None, :] != positive[None, :, :], axis=-1)
    return allowed


def draw_negatives(
    key: PRNGKeyArray,
    *,
    allowed: Bool[Array, "batch batch"],
    similarity: Float[Array, "batch batch"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """Draws one of the allowed columns for each row.

    Args:
        key: a new one for every step, and for each of the two directions.
        allowed: as `allowed_negatives` gives it, or its transpose.
        similarity: None draws uniformly. With the similarity of each row to each column, column j
            has probability softmax(similarity / temperature)_j among the allowed: the hard
            negatives of ALBEF, Li et al., https://arxiv.org/abs/2107.07651, section 3.2.
        temperature: the smaller, the harder.

    Returns:
        The columns, int32, and whether there was any to draw; where not, the column is 0.
    """
    if similarity is None:
        logits = jnp.zeros(allowed.shape)
    else:
        logits = jax.lax.stop_gradient(similarity.astype(jnp.float32) / temperature)
    # A key for each row: columns that are not allowed, if they are the last, change no draw.
    keys = jax.random.split(key, allowed.shape[0])
    column = jax.vmap(jax.random.categorical)(keys, jnp.where(allowed, logits, -jnp.inf))
    return column.astype(jnp.int32), allowed.any(axis=1)
