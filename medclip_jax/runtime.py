"""Starting JAX: the other processes of a run, the compilation cache, quiet libraries."""

import os
from pathlib import Path

import jax
from absl import logging

from medclip_jax.errors import UserError


def start() -> None:
    """Prepares JAX for a command; called once, before any computation.

    Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, by default a folder of the user's
    cache, so that a resumed run does not compile again.
    """
    logging.set_verbosity(logging.ERROR)  # TFDS and Orbax tell of every file otherwise
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "medclip_jax" / "xla"))
    initialize_distributed()


def initialize_distributed() -> None:
    """Joins the other processes where the environment says that there are some.

    Reads `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        return
    try:
        count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
    except (KeyError, ValueError):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and JAX_PROCESS_ID too"
        ) from None
    jax.distributed.initialize(address, num_processes=count, process_id=index)
