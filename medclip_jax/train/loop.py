"""The training loop: steps, logs, evaluations and checkpoints in a fixed order, resumable.

After each step, in this order: log, evaluate, save. The order never changes, so a run that was
killed and started again writes what an undisturbed one writes.
"""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from medclip_jax.data.tokenizer import load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train import flops
from medclip_jax.train.clock import Clock
from medclip_jax.train.faults import lost_a_process
from medclip_jax.train.finite import NUM_NOT_FINITE, describe_problem
from medclip_jax.train.lock import only_run_in
from medclip_jax.train.metrics import MetricsWriter, Progress
from medclip_jax.train.profiler import ProfilerWindow
from medclip_jax.train.run import Run, prepare_run
from medclip_jax.train.state import Batch, TrainState
from medclip_jax.train.step import Metrics

BATCHES_AHEAD = 2  # on the devices before the step that needs them


def pretrain(config: ConfigDict, workdir: Path, from_step: int | None = None) -> None:
    """Trains to `config.num_steps`, resuming from the last checkpoint below `workdir`.

    Args:
        config: of the run.
        workdir: of the run.
        from_step: go on from the checkpoint of this step; the later ones are set aside.

    Raises:
        UserError: the config, the data or the workdir is wrong, another run is at work there, the
            disk is full, a file of the data has gone, or what was computed is not finite.
    """
    with only_run_in(workdir):
        _pretrain(config, workdir, from_step)


def _pretrain(config: ConfigDict, workdir: Path, from_step: int | None) -> None:
    run = prepare_run(config, workdir, from_step)
    with _StopSignal() as stop:
        try:
            _train(run, stop)
        except Exception as error:
            _finish_saving(run, error)
            raise
        run.checkpointer.close()


def _finish_saving(run: Run, error: Exception) -> None:
    """Lets a checkpoint that is being written be finished, unless that cannot be."""
    if lost_a_process(error):
        return

    def close() -> None:
        with contextlib.suppress(UserError):  # the first error counts
            run.checkpointer.close()

    # In a thread, because other processes take part in it, which may have failed too.
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(run.config.distributed.peer_timeout if jax.process_count() > 1 else None)


def _train(run: Run, stop: "_StopSignal") -> None:
    config, state = run.config, run.state
    first_step = int(state.step)
    first_process = jax.process_index() == 0
    writer = MetricsWriter(run.workdir, first_step) if first_process else None
    progress = Progress(config.num_steps, first_step, enabled=first_process)
    for note in run.notes:
        progress.message(note)
    if first_step:
        progress.message(f"resumed from the checkpoint at step {first_step}")
    if first_step >= config.num_steps:
        progress.message(f"config.num_steps is {config.num_steps}: there is nothing left to do")
    clock = Clock()
    log = _Log(run, first_step, clock, writer, progress)
    batches = _prefetch(run.iterator, run.to_devices)
    profiler = ProfilerWindow(config.profile, run.workdir, progress.message)
    for step in range(first_step + 1, config.num_steps + 1):
        profiler.before_step()
        with clock.measure("input"):
            batch, iterator_state = next(batches)
        with clock.measure("step"), jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = run.train_step(state, batch)
        profiler.after_step(metrics)
        log.add(step, metrics)
        progress.step()
        last = step == config.num_steps
        validation_loss = None
        if run.validation and (last or step % config.evaluate_every == 0):
            log.flush()
            with clock.measure("evaluation"):
                state, validation_loss = _evaluate(run, state, log)
        stopping = stop.requested(run, step)
        if last or stopping or validation_loss is not None or step % config.checkpoint_every == 0:
            log.flush()
            with clock.measure("checkpoint"):
                run.checkpointer.save(state, iterator_state, validation_loss)
        if stopping:
            progress.message(f"stopped by a signal: step {step} is saved; run again to go on")
            break
    profiler.close()
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


def _evaluate(run: Run, state: TrainState, log: "_Log") -> tuple[TrainState, float | None]:
    """Writes the mean metrics over the validation rows and moves the plateau on.

    The loss is None if no row of these has what an objective needs, though others of the split do.
    """
    assert run.validation is not None
    started = time.monotonic()
    mean = run.validation.mean(run.eval_step(state, batch) for batch in run.validation_batches())
    means = {f"validation/{name}": value for name, value in mean.items()}
    log.check(int(state.step), means)
    loss = means.get("validation/loss")
    if loss is None:
        log.message("the validation rows show nothing: raise config.data.validation_examples")
        return state, None
    log.write(int(state.step), means | {"evaluation_seconds": time.monotonic() - started})
    return state.replace(plateau=run.update_plateau(state.plateau, loss)), loss


class _Log:
    """Holds the steps' metrics on the devices until a line is due, then checks and writes them."""

    def __init__(
        self,
        run: Run,
        first_step: int,
        clock: Clock,
        writer: MetricsWriter | None,
        progress: Progress,
    ):
        self._config = run.config
        self._saved_steps = run.checkpointer.saved_steps
        self._clock = clock
        self._writer = writer
        self._progress = progress
        self._mfu = _mfu_of_rate(run) if writer else None
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
                **self._clock.take(),
            }
            if self._mfu:
                values["mfu"] = self._mfu(rate)
            self.write(step, values)
            self._progress.log(step, values)

    def flush(self) -> dict[str, float]:
        """Fetches what is pending, and checks each step of it; the last values."""
        values: dict[str, float] = {}
        for step, metrics in self._pending:
            with self._clock.measure("step"):
                fetched = jax.device_get(metrics)
            values = {name: float(value) for name, value in fetched.items()}
            self.check(step, values)
            del values[NUM_NOT_FINITE]
        self._pending.clear()
        return values

    def check(self, step: int, values: dict[str, float]) -> None:
        """Ends the run, before anything of that step is saved, at what is not finite.

        Raises:
            UserError: a figure or an entry of the state is not finite.
        """
        problem = describe_problem(values)
        if problem is None:
            return
        mend = "lower config.optimizer.learning_rate or set a (lower) config.optimizer.clip_norm"
        saved = self._saved_steps()
        if not saved:
            raise UserError(
                f"{problem} at step {step}, before a checkpoint was saved: {mend}, and start again"
            )
        earlier = ", ".join(map(str, saved[:-1]))
        raise UserError(
            f"{problem} at step {step}; the last good checkpoint is step {saved[-1]}: {mend}, and "
            "start again to go on from there"
            + f", or from an earlier one ({earlier}) with --from-step"
            * bool(earlier)
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(step, values)
        if "validation/loss" in values:
            self.message(f"step {step}  validation loss {values['validation/loss']:.4f}")

    def message(self, text: str) -> None:
        self._progress.message(text)


def _mfu_of_rate(run: Run) -> Callable[[float], float] | None:
    """Steps a second to the share of the devices' peak; None where the peak is not known."""
    devices = run.mesh.devices.flatten()
    peak = flops.peak_flops(devices[0], run.config.compute_dtype)
    if peak is None:
        return None
    vocab_size = load_tokenizer(run.workdir / "tokenizer").vocab_size
    of_step = flops.train_step_flops(run.config, vocab_size)
    return lambda rate: flops.mfu(of_step, 1 / rate, len(devices), peak)


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
