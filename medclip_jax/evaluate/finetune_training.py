"""Training an image encoder and a linear head on labels: the recipe, the steps and the loop.

The recipe is ConVIRT's (arXiv 2010.00747) as far as the paper gives it. Images are augmented on the
accelerator as in pretraining. While the head alone is trained, the encoder is that of evaluation:
its batch norms use and keep their running statistics. One program is compiled for these steps, one
for all others and one for predictions, whatever the number of images: batches always have one size,
a set of images is gone through in a new order again and again, and the last batch of a pass goes on
with the next.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Literal
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from medclip_jax.data.augment import Augmentation, augment, prepare
from medclip_jax.errors import UserError
from medclip_jax.evaluate.image_squares import ImageSquares
from medclip_jax.evaluate.request import CHOICES, Request
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train.optimizer import FlatParams, flatten_params, unflatten_params

_LOWER_THE_RATE = "give a lower --learning-rate, or weights that have not diverged"


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """The recipe of fine-tuning; what the paper does not give is marked as ours."""

    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6  # added to the gradient
    dropout_rate: float = 0.2  # before the head
    head_learning_rate: float = 1e-3
    head_steps: int = 200  # the first steps train the head only ...
    max_head_share: float = 0.1  # ... in so small a share of all steps at most (ours)
    schedule: str = "plateau"  # or "cosine", which falls to zero over max_epochs, epoch by epoch
    plateau_factor: float = 0.5  # times this ...
    plateau_patience: int = 3  # ... after so many epochs without a better validation AUROC
    stopping_patience: int = 10  # epochs without one, after which training stops
    max_epochs: int = 30  # (ours) passes over the images ...
    min_epoch_steps: int = 20  # ... of so many steps at least, lest tiny sets end too soon (ours)

    @classmethod
    def from_request(cls, request: Request) -> Self:
        """The recipe, with what the request says of it."""
        return cls(
            batch_size=request.batch_size,
            max_epochs=request.max_epochs,
            learning_rate=request.learning_rate,
            schedule=request.schedule,
        )

    def __post_init__(self) -> None:
        if self.schedule not in CHOICES["schedule"]:
            there = " and ".join(CHOICES["schedule"])
            raise UserError(f"the schedule of fine-tuning is {self.schedule!r}; there are {there}")

    def num_epoch_steps(self, num_images: int) -> int:
        """Steps between two validations."""
        return max(self.min_epoch_steps, math.ceil(num_images / self.batch_size))

    def num_head_steps(self, num_images: int) -> int:
        """Steps in which the head alone is trained, before the first epoch."""
        num_steps = self.max_epochs * self.num_epoch_steps(num_images)
        return min(self.head_steps, int(self.max_head_share * num_steps))


@dataclasses.dataclass
class Progress:
    """How validation goes: when to keep the weights, to lower the rate, to stop."""

    settings: FinetuneSettings
    best: float = -math.inf
    epochs_without_better: int = 0
    plateau_scale: float = 1.0

    def update(self, score: float) -> bool:
        """Takes an epoch's score; returns whether it is the best so far."""
        if score > self.best:
            self.best, self.epochs_without_better = score, 0
            return True
        self.epochs_without_better += 1
        if self.epochs_without_better % self.settings.plateau_patience == 0:
            self.plateau_scale *= self.settings.plateau_factor
        return False

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self.epochs_without_better >= self.settings.stopping_patience


class ClassifierState(flax.struct.PyTreeNode):
    """The classifier after `step` steps.

    Attributes:
        params: "encoder", flat, only what the image features depend on; "head".
        frozen: the model's other parameters, flat.
    """

    step: jax.Array
    params: dict[str, Any]
    frozen: FlatParams
    batch_stats: dict[str, Any]
    opt_state: Any


class ClassifierHead(nn.Module):
    """Dropout and a linear layer."""

    num_labels: int
    dropout_rate: float

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch features"], train: bool
    ) -> Float[Array, "batch labels"]:
        """The logit of each label."""
        features = nn.Dropout(self.dropout_rate)(features, deterministic=not train)
        return nn.Dense(self.num_labels, name="output")(features)


class FinetuneTrainer:
    """Fine-tunes one architecture, from whatever weights and on whatever images."""

    def __init__(
        self,
        model: ImageTextModel,
        augmentation: Augmentation,
        num_labels: int,
        settings: FinetuneSettings,
    ):
        self.settings = settings
        self._model = model
        self._augmentation = augmentation
        self._head = ClassifierHead(num_labels, settings.dropout_rate)
        # As in torch's Adam, the decay is part of the gradient and passes through the moments.
        self._optimizer = optax.chain(
            optax.add_decayed_weights(settings.weight_decay), optax.scale_by_adam()
        )
        self._train_step = jax.jit(self._step, static_argnames="head_only")
        self._predict = jax.jit(self._probabilities)

    def fit(
        self,
        variables: Mapping[str, Any],
        squares: ImageSquares,
        images: Int[np.ndarray, "images"],
        labels: Float[np.ndarray, "images labels"],
        validate: Callable[[ClassifierState], float],
        seed: int,
    ) -> tuple[ClassifierState, list[dict[str, float]]]:
        """Trains until validation no longer gets better, or for `max_epochs`.

        Args:
            variables: of the model ("params", "batch_stats"), to start from.
            squares: the images.
            images: positions in `squares` of those to train on.
            labels: of each of `images`; NaN is unknown.
            validate: the figure that decides, higher is better; called after every epoch.
            seed: of the head, the order of the images, the augmentation and dropout.

        Returns:
            The state with the best validation, and of each epoch the steps, the mean loss, the
            learning rate and the validation. Epoch 0 trains the head alone.

        Raises:
            UserError: it diverges.
        """
        batches = shuffled_batches(len(images), self.settings.batch_size, seed)
        key = jax.random.key(seed)

        def train(
            state: ClassifierState, num_steps: int, rates: Any, head_only: bool
        ) -> tuple[Any, list[Any]]:
            losses = []
            for batch in itertools.islice(batches, num_steps):
                pixels = squares.read(images[batch])
                state, loss = self._train_step(
                    state, pixels, labels[batch], rates, key, head_only=head_only
                )
                losses.append(loss)
            return state, losses

        state, progress = self.initial_state(variables, seed), Progress(self.settings)
        best, history = state, []
        for epoch in range(self.settings.max_epochs + 1):
            num_steps, rates = self._plan(epoch, len(images), progress)
            state, losses = train(state, num_steps, rates, head_only=epoch == 0)
            if epoch == 0:  # moments from before the encoder moved are no start for training it
                state = state.replace(opt_state=self._optimizer.init(state.params))
            loss = float(np.mean(jax.device_get(losses))) if losses else math.nan
            if losses and not math.isfinite(loss):
                raise UserError(f"fine-tuning diverged in epoch {epoch}: {_LOWER_THE_RATE}")
            score = validate(state)
            best = state if progress.update(score) else best
            history.append(
                {"steps": num_steps, "loss": loss, "validation": score, "rate": rates["head"]}
            )
            if progress.is_over:
                break
        return best, history

    def predict(
        self, state: ClassifierState, squares: ImageSquares, images: Int[np.ndarray, "images"]
    ) -> Float[np.ndarray, "images labels"]:
        """The probability of each label, without augmentation or dropout.

        Raises:
            UserError: the logits are not finite.
        """
        size = self.settings.batch_size
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        results = [self._predict(state, squares.read(np.resize(part, size))) for part in batches]
        probabilities = np.concatenate(jax.device_get(results))[: len(images)]
        if not np.isfinite(probabilities).all():
            raise UserError(f"the fine-tuned classifier's logits overflow: {_LOWER_THE_RATE}")
        return probabilities

    def initial_state(self, variables: Mapping[str, Any], seed: int) -> ClassifierState:
        """The encoder as `variables` have it, with a fresh head."""
        flat = flatten_params(variables["params"])
        batch_stats = variables.get("batch_stats", {})
        size = self._augmentation.crop_size
        image = jnp.zeros((1, size, size, 1))

        def features(params: FlatParams) -> jax.Array:
            return self._encode(params, batch_stats, image, False, jax.random.key(0))[0]

        used = inputs_used(features, flat)
        head_input = jnp.zeros(jax.eval_shape(features, flat).shape)
        head = self._head.init(jax.random.key(seed), head_input, train=False)["params"]
        encoder = {name: jnp.asarray(leaf) for name, leaf in flat.items() if name in used}
        params = {"encoder": encoder, "head": head}
        return ClassifierState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen={name: jnp.asarray(leaf) for name, leaf in flat.items() if name not in used},
            batch_stats=jax.tree.map(jnp.asarray, batch_stats),
            opt_state=self._optimizer.init(params),
        )

    def _plan(
        self, epoch: int, num_images: int, progress: Progress
    ) -> tuple[int, dict[str, float]]:
        """The steps of an epoch, and the learning rates of the encoder and of the head."""
        settings = self.settings
        if epoch == 0:
            rates = {"encoder": 0.0, "head": settings.head_learning_rate}
            return settings.num_head_steps(num_images), rates
        rate = settings.learning_rate * progress.plateau_scale
        if settings.schedule == "cosine":
            angle = math.pi * (epoch - 1) / settings.max_epochs
            rate = settings.learning_rate * (1 + math.cos(angle)) / 2
        return settings.num_epoch_steps(num_images), {"encoder": rate, "head": rate}

    def _step(
        self,
        state: ClassifierState,
        images: UInt8[Array, "batch size size"],
        labels: Float[Array, "batch labels"],
        rates: dict[str, jax.Array],
        key: PRNGKeyArray,
        head_only: bool,
    ) -> tuple[ClassifierState, jax.Array]:
        augment_key, encoder_key, head_key = jax.random.split(
            jax.random.fold_in(key, state.step), 3
        )
        views = augment(images, augment_key, self._augmentation)

        def loss_fn(params: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
            features, batch_stats = self._encode(
                params["encoder"] | state.frozen,
                state.batch_stats,
                views,
                not head_only,
                encoder_key,
            )
            if head_only:
                features = jax.lax.stop_gradient(features)
            logits: Any = self._head.apply(
                {"params": params["head"]}, features, train=True, rngs={"dropout": head_key}
            )
            return masked_cross_entropy(logits, labels), batch_stats

        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.params)
        params = {
            part: jax.tree.map(lambda p, u, part=part: p - rates[part] * u, leaves, updates[part])
            for part, leaves in state.params.items()
        }
        return state.replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
        ), loss

    def _probabilities(
        self, state: ClassifierState, images: UInt8[Array, "batch size size"]
    ) -> Float[Array, "batch labels"]:
        views = prepare(images, self._augmentation)
        params = state.params["encoder"] | state.frozen
        features, _ = self._encode(params, state.batch_stats, views, False, jax.random.key(0))
        logits: Any = self._head.apply({"params": state.params["head"]}, features, train=False)
        # The probability of an infinite logit would be 0 or 1.
        return jnp.where(jnp.isfinite(logits), jax.nn.sigmoid(logits), jnp.nan)

    def _encode(
        self,
        params: FlatParams,
        batch_stats: dict[str, Any],
        views: Float[Array, "batch size size 1"],
        train: bool,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "batch features"], dict[str, Any]]:
        outputs, updated = self._model.apply(
            {"params": unflatten_params(params), "batch_stats": batch_stats},
            views,
            train,
            method="encode_image",
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return outputs["image_features"], updated.get("batch_stats", {})


def masked_cross_entropy(
    logits: Float[Array, "batch labels"], labels: Float[Array, "batch labels"]
) -> Float[Array, ""]:
    """The binary cross-entropy, averaged over the known labels (not NaN); 0 if none is known."""
    known = ~jnp.isnan(labels)
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, labels, 0.0))
    return jnp.sum(jnp.where(known, losses, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def shuffled_batches(
    num_images: int, batch_size: int, seed: int
) -> Iterator[Int[np.ndarray, "batch"]]:
    """Batches from pass after pass over the images, each in a new order; they never end."""
    generator = np.random.default_rng(seed)
    order = np.empty(0, int)
    while True:
        while len(order) < batch_size:
            order = np.append(order, generator.permutation(num_images))
        yield order[:batch_size]
        order = order[batch_size:]


def inputs_used(function: Callable[[FlatParams], jax.Array], inputs: FlatParams) -> set[str]:
    """The names of the inputs that the output depends on, from the trace of the function.

    Nested calls count as depending on all that they are given.
    """
    jaxpr = jax.make_jaxpr(function)(inputs).jaxpr
    needed = set(jaxpr.outvars)
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= {
                variable for variable in equation.invars if not isinstance(variable, Literal)
            }
    names = sorted(inputs)  # the order of a dictionary's leaves
    return {name for name, variable in zip(names, jaxpr.invars, strict=True) if variable in needed}
