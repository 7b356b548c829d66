"""The training loop: steps, logs, evaluations and checkpoints in a fixed order, resumable.

After each step, in this order: log, evaluate, save. The order never changes, so a run that was
killed and started again writes what an undisturbed one writes.
"""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from medclip_jax.errors import UserError
from medclip_jax.train.metrics import MetricsWriter, Progress
from medclip_jax.train.run import Run, prepare_run
from medclip_jax.train.state import Batch, TrainState
from medclip_jax.train.step import Metrics

BATCHES_AHEAD = 2  # on the devices before the step that needs them


def pretrain(config: ConfigDict, workdir: Path) -> None:
    """Trains to `config.num_steps`, resuming from the last checkpoint below `workdir`.

    Raises:
        UserError: the config, the data or the workdir is wrong, or the loss is not finite.
    """
    run = prepare_run(config, workdir)
    with _StopSignal() as stop:
        try:
            _train(run, stop)
        finally:
            run.checkpointer.close()


def _train(run: Run, stop: "_StopSignal") -> None:
    config, state = run.config, run.state
    first_step = int(state.step)
    first_process = jax.process_index() == 0
    writer = MetricsWriter(run.workdir, first_step) if first_process else None
    progress = Progress(config.num_steps, first_step, enabled=first_process)
    if first_step:
        progress.message(f"resumed from the checkpoint at step {first_step}")
    log = _Log(config, first_step, run.checkpointer.latest_step, writer, progress)
    batches = _prefetch(run.iterator, run.to_devices)
    for step in range(first_step + 1, config.num_steps + 1):
        batch, iterator_state = next(batches)
        state, metrics = run.train_step(state, batch)
        log.add(step, metrics)
        progress.step()
        last = step == config.num_steps
        validation_loss = None
        if run.validation and (last or step % config.evaluate_every == 0):
            log.flush()
            state, validation_loss = _evaluate(run, state, log)
        stopping = stop.requested(run, step)
        if last or stopping or validation_loss is not None or step % config.checkpoint_every == 0:
            log.flush()
            run.checkpointer.save(state, iterator_state, validation_loss)
        if stopping:
            progress.message(f"stopped by a signal: step {step} is saved; run again to go on")
            break
    progress.close()
    if writer:
        writer.close()


def _prefetch(
    iterator: Any, to_devices: Callable[[Any], Batch]
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Batches on the devices, each with the iterator's state just after it."""
    ready: deque[tuple[Batch, dict[str, Any]]] = deque()
    while True:
        while len(ready) < BATCHES_AHEAD:
            batch = to_devices(next(iterator))
            ready.append((batch, iterator.get_state()))
        yield ready.popleft()


def _evaluate(run: Run, state: TrainState, log: "_Log") -> tuple[TrainState, float]:
    """Writes the mean metrics over the validation batches and moves the plateau on."""
    started = time.monotonic()
    results = [jax.device_get(run.eval_step(state, batch)) for batch in run.validation_batches()]
    means = {
        f"validation/{name}": math.fsum(float(r[name]) for r in results) / len(results)
        for name in results[0]
    }
    loss = means["validation/loss"]
    log.write(int(state.step), means | {"evaluation_seconds": time.monotonic() - started})
    return state.replace(plateau=run.update_plateau(state.plateau, loss)), loss


class _Log:
    """Holds the steps' metrics on the devices until a line is due, then checks and writes them."""

    def __init__(
        self,
        config: ConfigDict,
        first_step: int,
        saved_step: Callable[[], int | None],
        writer: MetricsWriter | None,
        progress: Progress,
    ):
        self._config = config
        self._saved_step = saved_step
        self._writer = writer
        self._progress = progress
        self._pending: list[tuple[int, Metrics]] = []
        self._mark = (time.monotonic(), first_step)

    def add(self, step: int, metrics: Metrics) -> None:
        self._pending.append((step, metrics))
        if step % self._config.log_every == 0 or step == self._config.num_steps:
            values = self.flush()
            now, (then, before) = time.monotonic(), self._mark
            rate = (step - before) / (now - then)
            self._mark = (now, step)
            values |= {
                "steps_per_second": rate,
                "images_per_second": rate * self._config.batch_size,
            }
            self.write(step, values)
            self._progress.log(step, values)

    def flush(self) -> dict[str, float]:
        """Fetches what is pending, stops the run at a loss that is not finite; the last values."""
        values: dict[str, float] = {}
        for step, metrics in self._pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"the loss is {values['loss']} at step {step}; the last good checkpoint is "
                    f"step {self._saved_step()}: lower config.optimizer.learning_rate or set "
                    "config.optimizer.clip_norm, and start again"
                )
        self._pending.clear()
        return values

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(step, values)
        if "validation/loss" in values:
            self._progress.message(f"step {step}  validation loss {values['validation/loss']:.4f}")


class _StopSignal:
    """SIGTERM (and Ctrl-C) end the run after the step at hand, with a checkpoint.

    With several processes JAX's preemption service hears the signal, and all stop at one step.
    """

    def __enter__(self) -> "_StopSignal":
        self._received = False
        self._before: dict[int, Any] = {}
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, *_: object) -> None:
        self._received = True

    def requested(self, run: Run, step: int) -> bool:
        if jax.process_count() > 1:
            return run.checkpointer.reached_preemption(step)
        return self._received
