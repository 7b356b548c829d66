"""What a train step is made of, from a config: to run it, or only to compile it."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.data.tokenizer import Tokenizer, placeholder_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import Batch, TrainState, dummy_batch, init_variables, state_init
from medclip_jax.train.step import check_objectives, make_eval_step, make_train_step

# Parameters that start at ones, zeros, what the config says, or sines.
_FIXED_START = re.compile(r"(^|[/_])(scale|bias|temperature|image_positions)$")


class StepParts(NamedTuple):
    """A model, what trains it, and a batch in the shape that it takes.

    Attributes:
        example: two rows, with what `BatchMasks` adds.
        num_labels: columns of a batch's labels.
        vocab_size: number of the tokenizer's tokens.
    """

    config: ConfigDict
    mesh: Mesh
    model: ImageTextModel
    masks: BatchMasks
    optimizer: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs
    example: Batch
    num_labels: int
    vocab_size: int

    @classmethod
    def make(
        cls, config: ConfigDict, mesh: Mesh, tokenizer: Tokenizer, num_labels: int
    ) -> "StepParts":
        """Builds all parts.

        Raises:
            UserError: the config asks for what does not fit together.
        """
        _check_label_use(config, num_labels)
        _check_views(config)
        masks = BatchMasks.from_config(config, tokenizer)
        model = build_model(config, tokenizer.vocab_size)
        crop_size, length = config.augmentation.crop_size, config.text_encoder.max_length
        example = masks(dummy_batch(crop_size, length, num_labels), jax.random.key(0))
        check_objectives(model, config, example)
        shapes = jax.eval_shape(lambda: init_variables(model, 0, example))
        names = list(optimizers.split_frozen(shapes["params"], config.optimizer.frozen)[0])
        optimizer = optimizers.make_optimizer(config.optimizer, names)
        plateau = optimizers.make_plateau(config.schedule)
        vocab_size = tokenizer.vocab_size
        return cls(config, mesh, model, masks, optimizer, plateau, example, num_labels, vocab_size)

    def variable_shapes(self) -> Any:
        """The shapes of the model's variables."""
        return jax.eval_shape(lambda: init_variables(self.model, 0, self.example))

    def train_step(self) -> Any:
        """The train step, jitted for the mesh; it donates its state."""
        config, optimizer = self.config, self.config.optimizer
        schedule = optimizers.make_schedule(
            config.schedule, optimizer.learning_rate, config.num_steps
        )
        step = make_train_step(self.model, config, self.masks, self.optimizer, schedule, self.mesh)
        shardings = (self.state_shardings(), sharding.replicated(self.mesh))
        return jax.jit(step, donate_argnums=0, out_shardings=shardings)

    def eval_step(self) -> Any:
        """The validation step, jitted for the mesh."""
        step = make_eval_step(self.model, self.config, self.masks, self.mesh)
        return jax.jit(step, out_shardings=sharding.replicated(self.mesh))

    def update_plateau(self) -> Callable[[Any, float], Any]:
        """The function (plateau, validation loss) -> plateau, jitted for the mesh."""
        return jax.jit(
            lambda state, loss: optimizers.update_plateau(self.plateau, state, loss),
            out_shardings=sharding.replicated(self.mesh),
        )

    def state_shardings(self) -> Any:
        """Where the state lies."""
        return sharding.state_shardings(self.mesh, self._state(), self.config.fsdp_min_size)

    def abstract_state(self) -> Any:
        """A state without values, where a real one would lie."""
        return jax.tree.map(_abstract, self._state(), self.state_shardings())

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as the input pipeline gives it, without values."""
        rows, size = self.config.batch_size, self.config.data.image_size
        batch = dummy_batch(1, self.config.text_encoder.max_length, self.num_labels, rows=1)
        shapes = {
            name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)
            for name, array in batch.items()
        }
        shapes["image"] = jax.ShapeDtypeStruct((rows, size, size), jnp.uint8)
        by_rows = sharding.batch_sharding(self.mesh)
        return {name: _abstract(shape, by_rows) for name, shape in shapes.items()}

    def _state(self) -> TrainState:
        init = state_init(self.model, self.optimizer, self.plateau, self.config, self.example)
        return jax.eval_shape(init, {})


def check_frozen_are_given(config: ConfigDict, mesh: Mesh) -> None:
    """Raises a UserError where a new run would freeze what no weights are given for.

    Frozen layers of random numbers learn nothing. What does not start at random may be frozen.
    """
    if not config.optimizer.frozen:
        return
    tokenizer = placeholder_tokenizer(config.tokenizer.vocab_size)
    parts = StepParts.make(config, mesh, tokenizer, num_labels=1)
    shapes = parts.variable_shapes()["params"]
    for name in optimizers.split_frozen(shapes, config.optimizer.frozen)[1]:
        part = name.partition("/")[0]
        has_weights = part in ("image_encoder", "text_encoder")
        if _FIXED_START.search(name) or (has_weights and config[part].init):
            continue
        give = f"give --config.{part}.init=WEIGHTS, or " if has_weights else ""
        raise UserError(
            f"config.optimizer.frozen freezes {name}, which starts at random: {give}train it, "
            'as all is with --config.optimizer.frozen="()"'
        )


def _check_views(config: ConfigDict) -> None:
    multi_view = config.objectives.multi_view_contrastive
    if multi_view.weight and config.batch_size % multi_view.views:
        raise UserError(
            f"config.batch_size {config.batch_size} is not a multiple of the {multi_view.views} "
            "views of config.objectives.multi_view_contrastive"
        )


def _abstract(shape: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


def _check_label_use(config: ConfigDict, num_labels: int) -> None:
    matching = config.objectives.matching
    if matching.weight and matching.negatives == "label_aware" and not num_labels:
        raise UserError(
            "config.objectives.matching.negatives label_aware needs labels, which no set has; "
            "use random or hard"
        )
