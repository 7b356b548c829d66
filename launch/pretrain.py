"""`medclip-jax pretrain` for schedulers: its exit status says whether to start it again.

    python launch/pretrain.py CONFIG WORKDIR [--config.key=value ...] [--from-step N]

0: the run is complete. 75: it was stopped, as at a preemption, and has saved: start it again. 2: a
mistake that the user has to mend. Anything else is a fault: start it again.

`medclip-jax pretrain` itself ends with 0 when it was stopped, also in the processes that had no
signal, so that a scheduler would take half a run for a whole one. And it goes back to `--from-step`
at every start; here a run goes back once, so that it goes on when it is started again.
"""

import argparse
import sys
from pathlib import Path

from medclip_jax import cli
from medclip_jax.config import load_config
from medclip_jax.errors import UserError

STOPPED = 75  # EX_TEMPFAIL of sysexits.h


def main(arguments: list[str]) -> int:
    """Runs or resumes a run; returns the status, or exits with that of `medclip-jax pretrain`."""
    if len(arguments) < 2:
        print("usage: launch/pretrain.py CONFIG WORKDIR [FLAG ...]", file=sys.stderr)
        return 2
    config, workdir, *flags = arguments
    flags, going_back = _split_from_step(workdir, flags)
    # A process that is started once more after the last step would wait for the others in vain.
    if not going_back and _complete(config, workdir, flags):
        return 0
    cli.main(["pretrain", "--config", config, "--workdir", workdir, *flags, *going_back])
    return 0 if _complete(config, workdir, flags) else STOPPED


def _split_from_step(workdir: str, flags: list[str]) -> tuple[list[str], list[str]]:
    """The flags without `--from-step N`, and that one unless an earlier start went back to N."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from-step")
    parsed, others = parser.parse_known_args(flags)
    step = parsed.from_step
    if step is None or (Path(workdir) / "set_aside" / f"after_{step}").exists():
        return others, []
    return others, ["--from-step", step]


def _complete(config: str, workdir: str, flags: list[str]) -> bool:
    """Whether the last step is saved; False for a config that `medclip-jax pretrain` refuses."""
    try:
        last = load_config(config, [f for f in flags if f.startswith("--config.")]).num_steps
    except UserError:
        return False
    return (Path(workdir) / "checkpoints" / str(last)).is_dir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
