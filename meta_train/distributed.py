"""One run by several processes: who they are, how they meet, what they agree on.

A process finds the others by flags, by the environment variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (the JobSet in
configs/launch/ sets them), or by those of a Slurm step or of Open MPI. A shell inside
of an allocation has only some of Slurm's and is one process.

In one process alone everything here returns at once.
"""

import contextlib
import dataclasses
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from meta_train import workdir as workdir_lib

_FIRST_PORT, _PORTS = 61_440, 4_096  # As JAX itself chooses by job.
_RETRY_SECS = 0.2
_LINE_SECS, _LINE_BYTES = 5.0, 64  # For what a process says when it comes.
_GO = b"go"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, seen from one of them.

    Attributes:
      address: ``host:port`` of process 0.
      num_processes: All of them.
      process_id: This one's.
      local_device_ids: The GPUs of the node that are this one's; None: those it sees.
      found_by: Who said so, for the log.
    """

    address: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None
    found_by: str = "flags"

    def __post_init__(self):
        """Check every field."""
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(
                f"coordinator_address must be host:port, got {self.address!r}."
            )
        if not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"process_id must lie in [0, num_processes), got {self.process_id} "
                f"with num_processes {self.num_processes}."
            )


def find(
    environ: Mapping[str, str],
    *,
    address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: Sequence[int] | None = None,
) -> Cluster | None:
    """Find the processes of this run; None: this one is alone.

    Args:
      environ: Environment variables.
      address: Of the coordinator; this and the rest go before the environment.
      num_processes: All of them.
      process_id: This one's.
      local_device_ids: GPUs of this node that are this process's.

    Raises:
      ValueError: If the flags, or JAX's variables, say only a part and no batch system
        says the rest; names what is missing.
    """
    given: dict[str, Any] = {
        "address": address or environ.get("JAX_COORDINATOR_ADDRESS") or None,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    for key in ("num_processes", "process_id"):
        if given[key] is None:
            given[key] = _integer(environ, f"JAX_{key.upper()}")
    given = {key: value for key, value in given.items() if value is not None}
    found = _slurm(environ) or _open_mpi(environ) or {}
    known: dict[str, Any] = {
        "found_by": "flags or JAX_* variables",
        **found,
        **given,
    }
    if local_device_ids is not None:
        known["local_device_ids"] = tuple(local_device_ids)
    missing = [
        flag
        for key, flag in (
            ("address", "coordinator_address"),
            ("num_processes", "num_processes"),
            ("process_id", "process_id"),
        )
        if key not in known
    ]
    if missing and (given or found):
        raise ValueError(
            f"of the processes of this run {', '.join(missing)} must be given as well, "
            f"as flags or as {', '.join(f'JAX_{m.upper()}' for m in missing)}; got "
            f"{', '.join(sorted(given | found))} only."
        )
    if missing or known["num_processes"] == 1:
        return None
    return Cluster(**known)


def _integer(environ, name):
    text = environ.get(name, "")
    return int(text) if text.isdigit() else None


def _slurm(environ):
    """What srun says to each task of a step of several; None elsewhere."""
    # A batch script, and a shell in an allocation, lack those of the step.
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    job, step, count, process = (_integer(environ, name) for name in names)
    nodes = environ.get("SLURM_STEP_NODELIST", "")
    if job is None or step is None or not count or process is None or not nodes:
        return None
    if count == 1 or process >= count:
        return None
    port = _FIRST_PORT + (job + step) % _PORTS
    local = _integer(environ, "SLURM_LOCALID")
    return {
        "address": f"{_first_node(nodes)}:{port}",
        "num_processes": count,
        "process_id": process,
        "local_device_ids": _own_gpus(environ, local, count),
        "found_by": "Slurm",
    }


def _first_node(nodes):
    """First host of Slurm's ``a[01-03,7]-x,b``."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _own_gpus(environ, local, count):
    """GPUs of one task of a node; None: all that it sees."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    alone = visible is not None and "," not in visible  # As --gpus-per-task leaves it.
    per_node = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    on_node = int(per_node.group()) if per_node else count
    return None if alone or local is None or on_node == 1 else (local,)


def _open_mpi(environ):
    """What mpirun says to each process of several; None elsewhere."""
    count = _integer(environ, "OMPI_COMM_WORLD_SIZE")
    process = _integer(environ, "OMPI_COMM_WORLD_RANK")
    if count is None or process is None or count == 1:
        return None
    local = _integer(environ, "OMPI_COMM_WORLD_LOCAL_RANK")
    on_node = _integer(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") or count
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    alone = visible is not None and "," not in visible
    own = None if alone or local is None or on_node == 1 else (local,)
    found: dict[str, Any] = {
        "num_processes": count,
        "process_id": process,
        "local_device_ids": own,
        "found_by": "Open MPI",
    }
    # Open MPI 5 no longer says where mpirun runs: that needs --coordinator_address.
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    launcher = re.search(r"tcp://([^,:]+)", uri)
    job = re.match(r"\d+", uri)
    if launcher and job:
        port = _FIRST_PORT + (int(job.group()) >> 12) % _PORTS
        found["address"] = f"{launcher.group(1)}:{port}"
    return found


def connect(cluster: Cluster | None, *, timeout_secs: int) -> None:
    """Meet the other processes; to be called before JAX is used.

    Raises:
      ConnectionError: If the coordinator, or one of the others, does not come in time;
        names the address, the time and who is missing.
    """
    if cluster is None:
        return
    print(
        f"meta_train: process {cluster.process_id} of {cluster.num_processes} connects "
        f"to the coordinator at {cluster.address} ({cluster.found_by}).",
        file=sys.stderr,
        flush=True,
    )
    # JAX ends a process that waits in vain without a word of Python's: we meet first.
    deadline = time.monotonic() + timeout_secs
    if cluster.process_id:
        _come(cluster, deadline, timeout_secs)
    else:
        _await(cluster, deadline, timeout_secs)
    # Signals are ours, see meta_train.signals.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    ids = cluster.local_device_ids
    jax.distributed.initialize(
        coordinator_address=cluster.address,
        num_processes=cluster.num_processes,
        process_id=cluster.process_id,
        local_device_ids=None if ids is None else list(ids),
        cluster_detection_method="deactivate",
        initialization_timeout=timeout_secs,
    )


def _await(cluster, deadline, timeout_secs):
    """Listen, as process 0, till all others have come; then let them go on."""
    port = int(cluster.address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    missing = set(range(1, cluster.num_processes))
    with contextlib.ExitStack() as stack:
        try:
            server = socket.create_server(
                ("", port), family=family, dualstack_ipv6=dual
            )
        except OSError as error:
            raise ConnectionError(
                f"process 0 cannot listen at {cluster.address} ({error}): take another "
                "port (--coordinator_address)."
            ) from error
        stack.enter_context(server)
        there = []
        while missing:
            try:
                server.settimeout(max(0.001, deadline - time.monotonic()))
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_LINE_SECS)
                line = connection.recv(_LINE_BYTES).decode(errors="replace")
            except TimeoutError as error:
                if time.monotonic() < deadline:
                    continue  # It said nothing: none of ours.
                raise ConnectionError(
                    f"process 0 waited {timeout_secs} s at {cluster.address} for "
                    f"process {', '.join(map(str, sorted(missing)))}: start all "
                    f"{cluster.num_processes}, with this coordinator_address."
                ) from error
            except OSError:
                continue  # Gone again.
            known = re.fullmatch(r"process (\d+) of (\d+)\n", line)
            if known and int(known.group(2)) == cluster.num_processes:
                missing.discard(int(known.group(1)))
                there.append(connection)
        for connection in there:
            with contextlib.suppress(OSError):  # One that came twice.
                connection.sendall(_GO)
                connection.recv(1)  # Closed by the other first, the port stays free.


def _come(cluster, deadline, timeout_secs):
    """Report to process 0, which may start later than we do, and wait for all."""
    host, _, port = cluster.address.rpartition(":")
    who = f"process {cluster.process_id} of {cluster.num_processes}"
    error: OSError | None = None
    met = False
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), left) as own:
                own.sendall(f"{who}\n".encode())
                met = True
                own.settimeout(max(0.001, deadline - time.monotonic()))
                if own.recv(len(_GO)) == _GO:
                    return
        except OSError as raised:
            error = raised
        time.sleep(_RETRY_SECS)
    if met:
        raise ConnectionError(
            f"{who} met process 0 at {cluster.address}, but not all others came within "
            f"{timeout_secs} s; process 0 says who is missing."
        ) from error
    raise ConnectionError(
        f"{who} did not reach the coordinator at {cluster.address} within "
        f"{timeout_secs} s ({error}): is process 0 running there, and the port open?"
    ) from error


def is_first() -> bool:
    """Whether this process writes what there is one of: metrics, theta."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """Every process's text, in every process."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(content.size)))
    padded = np.zeros(max(1, sizes.max()), np.uint8)
    padded[: content.size] = content
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [
        row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)
    ]


def largest(values: Sequence[int]) -> list[int]:
    """Elementwise maximum over all processes."""
    if jax.process_count() == 1:
        return list(values)
    rows = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return [int(x) for x in rows.reshape(-1, len(values)).max(axis=0)]


def check_same(config: Mapping[str, Any]) -> None:
    """Raise ValueError if processes have other configs, naming the keys that differ."""
    texts = gather(json.dumps(config, sort_keys=True))
    flat = [workdir_lib.flatten(json.loads(text)) for text in texts]
    lines = [
        f"  {key}: {workdir_lib.show(flat[0], key)} in process 0, "
        f"{workdir_lib.show(other, key)} in process {process}"
        for process, other in enumerate(flat)
        for key in workdir_lib.differing(flat[0], other)
    ]
    if lines:
        raise ValueError(
            "the processes of a run must have one config, got\n"
            + "\n".join(lines)
            + "\nStart all with the same command line, from the same checkout."
        )


def first(do: Callable[[], None]) -> None:
    """Let process 0 do something before the others go on.

    Raises:
      ValueError: In all of them, if it does so in that one; likewise OSError, which is
        a ValueError in the others.
    """
    error: Exception | None = None
    if is_first():
        try:
            do()
        except (ValueError, OSError) as raised:
            error = raised
    said = gather("" if error is None else str(error))[0]
    if error is not None:
        raise error
    if said:
        raise ValueError(said)
