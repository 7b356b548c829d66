"""What a training run is made of, put together (and restored) from a config and a workdir."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.config import check_same_run, read_config, write_config
from medclip_jax.convert.initialize import INITIAL_ENCODERS, read_initial, tokenizer_directory
from medclip_jax.convert.variables_file import write_variables
from medclip_jax.data import pipeline
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.checkpoint import Checkpointer, has_checkpoint
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import (
    Batch,
    TrainState,
    create_state,
    dummy_batch,
    init_variables,
)
from medclip_jax.train.step import (
    EvalStep,
    TrainStep,
    check_objectives,
    make_eval_step,
    make_train_step,
)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


@dataclasses.dataclass
class Run:
    """Everything the loop uses; the steps are jitted for the mesh."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    state: TrainState
    train_step: TrainStep
    eval_step: EvalStep
    update_plateau: Callable[[Any, float], Any]
    iterator: Any
    validation: Callable[[], Iterator[Any]] | None
    checkpointer: Checkpointer

    def to_devices(self, batch: Any) -> Batch:
        """A global batch on the mesh, from this process's rows."""
        return sharding.to_global(batch, self.mesh)

    def validation_batches(self) -> Iterator[Batch]:
        """The validation batches, the same at every evaluation."""
        assert self.validation is not None
        return (self.to_devices(batch) for batch in self.validation())


def prepare_run(config: ConfigDict, workdir: Path) -> Run:
    """Builds a run, or takes it up where the last checkpoint left it.

    Raises:
        UserError: the config or the data is wrong, or the workdir holds another run.
    """
    mesh = sharding.make_mesh(config.mesh.to_dict())
    sharding.check_batch_size(config.batch_size, mesh)
    resuming = has_checkpoint(workdir / "checkpoints")
    tokenizer = _prepare_workdir(config, workdir, resuming)
    arguments = {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "tokenizer": tokenizer,
        "max_length": config.text_encoder.max_length,
        "views_per_study": views_per_study(config),
        "rows": sharding.local_rows(mesh, config.batch_size),
    }
    iterator = pipeline.make_iterator(config.data, **arguments)
    state, steps = _prepare_steps(config, mesh, tokenizer, None if resuming else workdir)
    # Opened last: its threads would add their own errors to one of the above.
    checkpointer = Checkpointer(workdir / "checkpoints")
    if resuming:
        state, iterator_state = checkpointer.restore(state)
        iterator.set_state(iterator_state)
    return Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        state=state,
        iterator=iterator,
        validation=_validation(config, arguments),
        checkpointer=checkpointer,
        **steps,
    )


def views_per_study(config: ConfigDict) -> int:
    """Rows of a batch that show one study: several if an objective compares views."""
    multi_view = config.objectives.multi_view_contrastive
    return multi_view.views if multi_view.weight else 1


def _prepare_steps(
    config: ConfigDict, mesh: Mesh, tokenizer: Tokenizer, new_workdir: Path | None
) -> tuple[TrainState, dict[str, Callable[..., Any]]]:
    """A fresh state, and the functions of `Run` that work on it, jitted for the mesh.

    The state of a new run has the weights that the config names, and keeps them in its workdir.
    """
    masks = BatchMasks.from_config(config, tokenizer)
    model = build_model(config, tokenizer.vocab_size)
    num_labels = len(pipeline.label_names(config.data))
    batch = dummy_batch(config.augmentation.crop_size, config.text_encoder.max_length, num_labels)
    batch = masks(batch, jax.random.key(0))
    _check_label_use(config, num_labels)
    check_objectives(model, config, batch)
    variables = jax.eval_shape(lambda: init_variables(model, 0, batch))
    names = list(optimizers.split_frozen(variables["params"], config.optimizer.frozen)[0])
    optimizer = optimizers.make_optimizer(config.optimizer, names)
    schedule = optimizers.make_schedule(
        config.schedule, config.optimizer.learning_rate, config.num_steps
    )
    plateau = optimizers.make_plateau(config.schedule)
    initial = _read_initial(config, model, variables, new_workdir) if new_workdir else {}
    state = create_state(model, optimizer, plateau, config, batch, mesh, initial)
    if jax.process_index() == 0:
        print(parameter_overview.get_parameter_overview(state.params, include_stats=False))

    train_step = make_train_step(model, config, masks, optimizer, schedule)
    everywhere = sharding.replicated(mesh)
    shardings = (sharding.state_shardings(mesh, state), everywhere)
    return state, {
        "train_step": jax.jit(train_step, donate_argnums=0, out_shardings=shardings),
        "eval_step": jax.jit(make_eval_step(model, config, masks), out_shardings=everywhere),
        "update_plateau": jax.jit(
            lambda state, loss: optimizers.update_plateau(plateau, state, loss),
            out_shardings=everywhere,
        ),
    }


def _read_initial(
    config: ConfigDict, model: ImageTextModel, shapes: dict[str, Any], workdir: Path
) -> dict[str, Any]:
    """The pretrained variables that the config asks for, which the workdir keeps; says what."""
    initial, notes = read_initial(config, model, shapes)
    if jax.process_index() == 0:
        (workdir / INITIAL_ENCODERS).unlink(missing_ok=True)
        if initial:
            print(*notes, sep="\n")
            write_variables(workdir / INITIAL_ENCODERS, initial, {})
    return initial


def _check_label_use(config: ConfigDict, num_labels: int) -> None:
    matching = config.objectives.matching
    if matching.weight and matching.negatives == "label_aware" and not num_labels:
        raise UserError(
            "config.objectives.matching.negatives label_aware needs labels, which no set has; "
            "use random or hard"
        )


def _prepare_workdir(config: ConfigDict, workdir: Path, resuming: bool) -> Tokenizer:
    """Writes config and tokenizer, or checks that a resumed run has the same config."""
    path, directory = workdir / "config.json", workdir / "tokenizer"
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir {workdir} cannot be made: {error.strerror}") from None
        if resuming:
            check_same_run(read_config(path), config)
        else:  # what an earlier start left before its first checkpoint is of no use
            shutil.rmtree(directory, ignore_errors=True)
            _prepare_tokenizer(config, directory)
        write_config(config, path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir is ready")
    return load_tokenizer(directory)


def _prepare_tokenizer(config: ConfigDict, directory: Path) -> None:
    """Copies the given tokenizer into the workdir, or trains one on the training reports."""
    given = tokenizer_directory(config)
    if given:
        load_tokenizer(given)  # refuses what is none
        directory.mkdir()
        for file in given.iterdir():
            if file.name in TOKENIZER_FILES:  # a model's weights may lie beside them
                shutil.copy(file, directory)
    else:
        train_wordpiece(pipeline.corpus(config.data), config.tokenizer.vocab_size, directory)


def _validation(
    config: ConfigDict, arguments: dict[str, Any]
) -> Callable[[], Iterator[Any]] | None:
    """Makes the validation batches anew at each call; None where there is nothing to evaluate."""
    num_batches = config.data.validation_examples // config.batch_size
    if not num_batches:
        return None
    return lambda: pipeline.validation_batches(config.data, num_batches, **arguments)
