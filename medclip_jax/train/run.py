"""What a training run is made of, put together (and restored) from a config and a workdir."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.config import Change, check_same_run, write_config
from medclip_jax.convert.initialize import INITIAL_ENCODERS, read_initial, tokenizer_directory
from medclip_jax.convert.variables_file import write_variables
from medclip_jax.data import pipeline
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.train import changes
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.checksums import newest_whole
from medclip_jax.train.finite import num_not_finite
from medclip_jax.train.pieces import check_microbatch_size
from medclip_jax.train.plan import with_fitting_microbatches
from medclip_jax.train.rewind import check_whole, other_steps, rewind
from medclip_jax.train.state import Batch, TrainState, create_state
from medclip_jax.train.step import EvalStep, TrainStep
from medclip_jax.train.step_parts import StepParts, check_frozen_are_given
from medclip_jax.train.usable_data import check_training_data, views_per_study
from medclip_jax.train.validation import Validation, prepare_validation

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


@dataclasses.dataclass
class Run:
    """Everything the loop uses; the steps are jitted for the mesh.

    Attributes:
        validation: None where there is nothing to validate on.
        notes: lines to print at the start.
    """

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    state: TrainState
    train_step: TrainStep
    eval_step: EvalStep
    update_plateau: Callable[[Any, float], Any]
    iterator: Any
    validation: Validation | None
    checkpointer: Checkpointer
    notes: list[str]

    def to_devices(self, batch: Any) -> Batch:
        """A global batch on the mesh, from this process's rows."""
        return sharding.to_global(batch, self.mesh)

    def validation_batches(self) -> Iterator[Batch]:
        """The validation batches, the same at every evaluation."""
        assert self.validation is not None
        return (self.to_devices(batch) for batch in self.validation.batches())


def prepare_run(config: ConfigDict, workdir: Path, from_step: int | None = None) -> Run:
    """Builds a run, or takes it up where the last checkpoint, or that of `from_step`, left it.

    Raises:
        UserError: the config or the data is wrong, the workdir holds another run, or there is no
            checkpoint of `from_step`.
    """
    mesh = sharding.make_mesh(config.mesh.to_dict())
    sharding.check_batch_size(config.batch_size, mesh)
    check_microbatch_size(config.microbatch_size, config.batch_size, sharding.batch_shards(mesh))
    step = newest_whole(workdir / "checkpoints")
    if from_step is not None:
        check_whole(workdir, from_step)
        step = from_step
    if step is None:
        check_frozen_are_given(config, mesh)
    tokenizer, changed = _prepare_workdir(config, workdir, step)
    iterator = pipeline.make_iterator(
        config.data,
        seed=config.seed,
        batch_size=config.batch_size,
        tokenizer=tokenizer,
        max_length=config.text_encoder.max_length,
        views_per_study=views_per_study(config),
        rows=sharding.local_rows(mesh, config.batch_size).tolist(),
    )
    check_training_data(config, tokenizer)
    validation, notes = prepare_validation(config, mesh, tokenizer)
    state, steps = _prepare_steps(config, mesh, tokenizer, workdir if step is None else None)
    # All that can be refused has been: only now is anything of the run's own changed.
    if from_step is not None:
        rewind(workdir, from_step)
    # Opened last: its threads would add their own errors to one of the above.
    checkpointer = Checkpointer(workdir / "checkpoints")
    if step is not None:
        state, iterator_state = checkpointer.restore(state)
        _check_finite(state, workdir)
        iterator.set_state(iterator_state)
    _record(config, workdir, step, changed)
    return Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        state=state,
        iterator=iterator,
        validation=validation,
        checkpointer=checkpointer,
        notes=notes,
        **steps,
    )


def _check_finite(state: TrainState, workdir: Path) -> None:
    """Refuses a checkpoint that is not finite, as runs of earlier versions saved them."""
    # The plateau's best loss is infinite until there is one.
    scale = state.plateau.scale
    fields = state.params, state.batch_stats, state.opt_state, state.ema_params, scale
    count = int(jax.jit(num_not_finite)(fields))
    if count:
        step = int(state.step)
        raise UserError(
            f"the checkpoint at step {step} holds {count} numbers that are not finite: go on from "
            f"an earlier one with --from-step N ({other_steps(workdir, step)}), or start anew with "
            "another --workdir"
        )


def _prepare_steps(
    config: ConfigDict, mesh: Mesh, tokenizer: Tokenizer, new_workdir: Path | None
) -> tuple[TrainState, dict[str, Callable[..., Any]]]:
    """A fresh state, and the functions of `Run` that work on it, jitted for the mesh.

    The state of a new run has the weights that the config names, and keeps them in its workdir.
    """
    parts = StepParts.make(config, mesh, tokenizer, len(pipeline.label_names(config.data)))
    parts = with_fitting_microbatches(parts)
    initial = _read_initial(parts, new_workdir) if new_workdir else {}
    state = create_state(
        parts.model, parts.optimizer, parts.plateau, config, parts.example, mesh, initial
    )
    if jax.process_index() == 0:
        print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    return state, {
        "train_step": parts.train_step(),
        "eval_step": parts.eval_step(),
        "update_plateau": parts.update_plateau(),
    }


def _read_initial(parts: StepParts, workdir: Path) -> dict[str, Any]:
    """The pretrained variables that the config asks for, which the workdir keeps; says what."""
    initial, notes = read_initial(parts.config, parts.model, parts.variable_shapes())
    if jax.process_index() == 0:
        (workdir / INITIAL_ENCODERS).unlink(missing_ok=True)
        if initial:
            print(*notes, sep="\n")
            write_variables(workdir / INITIAL_ENCODERS, initial, {})
    return initial


def _prepare_workdir(
    config: ConfigDict, workdir: Path, step: int | None
) -> tuple[Tokenizer, list[Change]]:
    """Makes the tokenizer, or checks that a run resumed at `step` may have this config."""
    directory, changed = workdir / "tokenizer", list[Change]()
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir {workdir} cannot be made: {error.strerror}") from None
        if step is not None:
            changed = check_same_run(changes.config_at(workdir, step), config)
        else:  # what an earlier start left before its first checkpoint is of no use
            shutil.rmtree(directory, ignore_errors=True)
            (workdir / changes.CHANGES).unlink(missing_ok=True)
            _prepare_tokenizer(config, directory)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir is ready")
    return load_tokenizer(directory), changed


def _record(config: ConfigDict, workdir: Path, step: int | None, changed: list[Change]) -> None:
    """Writes the config, and says and notes in what it differs from before `step`."""
    if jax.process_index() > 0:
        return
    if step is not None:
        changes.record(workdir, step, changed)
    write_config(config, workdir / "config.json")
    for change in changed:
        print(
            f"from step {step} on {change.key} is {change.after!r}, before {change.before!r}: "
            f"{change.effect}",
            file=sys.stderr,
        )


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
