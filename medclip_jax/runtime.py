"""Starting JAX: the other processes of a run, the compilation cache, quiet libraries."""

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax

from medclip_jax.errors import UserError

# What decides numbers is as the tests have it, whatever the user's environment sets for other
# programs: the same config gives the same results.
_NUMERICS = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}


def start(start_timeout: int = 300, peer_timeout: int = 100) -> None:
    """Prepares JAX for a command; called once, before any computation.

    Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, by default a folder of the user's
    cache, so that a resumed run does not compile again.

    Args:
        start_timeout: seconds to wait for the other processes.
        peer_timeout: seconds after which a process that is not heard of ends the run.

    Raises:
        UserError: the environment asks for devices that are not here; or as
            `initialize_distributed`.
    """
    # TFDS and Orbax tell of every file otherwise, and of errors twice: here, and as an exception.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for name, value in _NUMERICS.items():
        jax.config.update(name, value)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with contextlib.suppress(RuntimeError):  # a user without a home, as in some containers
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            jax.config.update("jax_compilation_cache_dir", str(cache / "medclip_jax" / "xla"))
    initialize_distributed(start_timeout, peer_timeout)
    _check_devices()


def _check_devices() -> None:
    """Raises a UserError where JAX finds nothing to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        message = _why_no_device(str(error).partition("\n")[0].partition(" (")[0].rstrip("."))
        if jax.distributed.is_initialized():  # at its exit JAX would wait for the others
            print(f"medclip-jax: {message}", file=sys.stderr, flush=True)
            os._exit(2)
        raise UserError(message) from None


def _why_no_device(reason: str) -> str:
    reason = reason or "its plugin is not installed"
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms:
        return f"JAX finds no device ({reason}): set JAX_PLATFORMS=cpu to compute on the CPU"
    return (
        f"JAX_PLATFORMS is {platforms!r}, which JAX cannot use here ({reason}): unset it to take "
        "the devices that there are, or install JAX for these, as medclip_jax[cuda] or [tpu]"
    )


def initialize_distributed(start_timeout: int = 300, peer_timeout: int = 100) -> None:
    """Joins the other processes where the environment says that there are some.

    Reads `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; with
    `MEDCLIP_JAX_DISTRIBUTED=auto` JAX asks SLURM, the TPU pod or Kubernetes instead. If the others
    do not come in time the process ends with a line and status 1: it may be started again.

    Raises:
        UserError: the variables are incomplete, no cluster is found, or the port is taken.
    """
    mode, address = os.environ.get("MEDCLIP_JAX_DISTRIBUTED"), _address()
    if mode not in (None, "", "auto"):
        raise UserError(f"MEDCLIP_JAX_DISTRIBUTED is {mode!r}: set it to auto, or not at all")
    if not mode and not address:
        return
    arguments = {} if mode else _known_processes(address)
    if not mode and arguments["process_id"] == 0:
        _check_port(address)
    with _deadline(start_timeout, lambda: _why_not_joined(arguments, start_timeout)):
        try:
            jax.distributed.initialize(
                **arguments,
                # JAX aborts at its own deadline, without a line of ours: it comes later.
                initialization_timeout=start_timeout + 60,
                heartbeat_timeout_seconds=peer_timeout,
                shutdown_timeout_seconds=peer_timeout,
            )
        except (ValueError, RuntimeError) as error:
            if not mode:
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"MEDCLIP_JAX_DISTRIBUTED=auto: JAX does not find its cluster here ({reason}); set "
                "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID instead"
            ) from None


def _address() -> str:
    """`JAX_COORDINATOR_ADDRESS`, or "" where it is not set."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"JAX_COORDINATOR_ADDRESS must be HOST:PORT, not {address!r}")
    return address


def _known_processes(address: str) -> dict[str, Any]:
    try:
        count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
    except (KeyError, ValueError):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and JAX_PROCESS_ID too"
        ) from None
    if not 0 <= index < count:
        raise UserError(f"JAX_PROCESS_ID is {index}: it must be from 0 to {count - 1}")
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        # Within a SLURM step JAX would take the devices from SLURM all the same.
        "cluster_detection_method": "deactivate",
    }


def _check_port(address: str) -> None:
    """Raises a UserError if another program listens there: JAX would crash, or share the port."""
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {address} ({os.strerror(error.errno or 0)}): "
            "choose another port in JAX_COORDINATOR_ADDRESS, the same for all processes"
        ) from None


@contextlib.contextmanager
def _deadline(seconds: int, message: Callable[[], str]) -> Iterator[None]:
    """Ends the process with a line if the block, which nothing else can end, takes longer."""

    def give_up() -> None:
        print(f"medclip-jax: {message()}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _why_not_joined(arguments: dict[str, Any], seconds: int) -> str:
    if not arguments:
        return f"the processes of this job have not found each other within {seconds} s"
    address, count = arguments["coordinator_address"], arguments["num_processes"]
    missing = f"not all {count} processes have joined the coordinator at {address} in {seconds} s"
    if arguments["process_id"] > 0:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError as error:
            return (
                f"the coordinator at {address} cannot be reached ({error.strerror or error}), "
                f"though tried for {seconds} s: start process 0, or check address and firewall"
            )
    return f"{missing}: start the others, or check that they can reach it"
