"""Checkpoints by Orbax: asynchronous and atomic, the state and the data iterator together.

Three items lie side by side: `model` (parameters and statistics, all that inference reads),
`training` (optimiser, step, plateau) and `data` (the Grain iterator's state, as JSON, so that
it restores onto any number of processes). The last and the best checkpoint are kept.
"""

import contextlib
import errno
import functools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from medclip_jax.train.checksums import saved_steps, write_checksums
from medclip_jax.train.faults import DiskError
from medclip_jax.train.state import TrainState

MODEL_FIELDS = ("params", "batch_stats", "ema_params")
METRIC = "validation_loss"


class _AsNumPy(ocp.type_handlers.NumpyHandler):
    """Reads saved JAX arrays as NumPy's.

    Orbax's own handler lays an array over the devices that it was saved from, which need not be
    here; this one does not open the file that names them.
    """

    _array_metadata_store = None  # Orbax warns of a handler without one; only writing uses it

    def typestr(self) -> str:
        """The type, as the checkpoint names it, that the handler is for."""
        return "jax.Array"


class Checkpointer:
    """Saves and restores a run below `directory`."""

    def __init__(self, directory: Path, *, read_only: bool = False):
        """Opens `directory`; a reader neither makes it nor clears what a running job is writing."""
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(2),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: -_rank(metrics),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else policy,
            best_fn=_rank,
            best_mode="min",
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=functools.partial(write_checksums, directory)
            ),
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest_step(self) -> int | None:
        """The last step that was saved whole, or None."""
        return self._manager.latest_step()

    def saved_steps(self) -> list[int]:
        """The steps that are saved, or are being saved, in ascending order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step of the lowest validation loss, else the last, or None."""
        return self._manager.best_step() or self._manager.latest_step()

    def save(
        self, state: TrainState, iterator_state: Any, validation_loss: float | None = None
    ) -> None:
        """Starts saving; returns as soon as the state may change again.

        A validation loss that is not finite does not count: the checkpoint has no rank.

        Raises:
            DiskError: the disk is full or fails, at this or at the save before.
        """
        model, training = _split(state)
        ranked = validation_loss is not None and math.isfinite(validation_loss)
        with self._disk_errors():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    data=ocp.args.JsonSave({"iterator": iterator_state}),
                ),
                metrics=None if not ranked else {METRIC: validation_loss},
                force=True,
            )

    def restore(self, state: TrainState) -> tuple[TrainState, Any]:
        """The last saved (state, iterator state), laid out over the mesh as `state` is."""
        model, training = _split(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
        training["opt_state"] = self._as_saved(training["opt_state"])
        restored = self._manager.restore(
            self._manager.latest_step(),
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                training=ocp.args.StandardRestore(training),
                data=ocp.args.JsonRestore(),
            ),
        )
        fields = {name: restored.model.get(name, {}) for name in MODEL_FIELDS}
        leaves = jax.tree.leaves(restored.training.pop("opt_state"))
        opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), leaves)
        return (
            TrainState(**fields, **restored.training, opt_state=opt_state),
            restored.data["iterator"],
        )

    def _as_saved(self, opt_state: Any) -> Any:
        """The optimiser's arrays in the tree of the last checkpoint.

        Clipping has no arrays, but takes a place in the tree: so a run may be resumed with or
        without it.
        """
        path = self._directory.absolute() / str(self._manager.latest_step()) / "training"
        saved = ocp.StandardCheckpointHandler().metadata(path).tree["opt_state"]
        return jax.tree.unflatten(jax.tree.structure(saved), jax.tree.leaves(opt_state))

    def restore_model(self, step: int) -> dict[str, Any]:
        """The variables that evaluation uses, as NumPy arrays, of the checkpoint at `step`.

        On which devices they were trained does not matter.
        """
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, _AsNumPy()))
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        with ocp.Checkpointer(handler) as reader:
            item = reader.restore(self._directory.absolute() / str(step) / "model")
        statistics = {name: item[name] for name in ("batch_stats",) if name in item}
        return {"params": item.get("ema_params") or item["params"]} | statistics

    def reached_preemption(self, step: int) -> bool:
        """True on every process at the same step once the cluster has told one to stop."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when all that was started is on disk; raises as `save` does."""
        with self._disk_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then closes."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Says in a line what the operating system refuses to Orbax or to TensorStore."""
        try:
            yield
        except (OSError, ValueError) as error:
            text = str(error)
            if isinstance(error, OSError):
                reason = error.strerror or text
            elif re.search("(Error|Failed) writing", text):  # TensorStore's words around errno's
                reason = os.strerror(errno.ENOSPC)
                reason = reason if reason in text else text.partition("\n")[0]
            else:
                raise
            steps = ", ".join(str(step) for step in saved_steps(self._directory)) or "none"
            raise DiskError(
                f"a checkpoint cannot be saved in {self._directory}: {reason}; kept are the steps "
                f"{steps}: mend that and start again, the run goes on from the last of them"
            ) from error


def _rank(metrics: dict[str, float]) -> float:
    """The validation loss; the worst where it is not finite, as in runs of earlier versions."""
    loss = metrics[METRIC]
    return loss if math.isfinite(loss) else math.inf


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    # Orbax refuses empty trees within an item, such as the statistics of a model without any.
    model = {name: getattr(state, name) for name in MODEL_FIELDS if getattr(state, name)}
    return model, {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau}
