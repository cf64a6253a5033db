"""What XLA makes of a step for a GPU, on a machine that has none.

The compiler of the ``cuda`` extra needs no device if it is told one's properties. Of
the program that comes out, kernels and the memory they read and write can be counted;
how long they take cannot. The compiler measures nothing here (autotuning is off), so
that on a GPU other kernels may be chosen for matrix products.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

# The H100 SXM, as XLA's files of GPU specifications and its pull request 25919 have it.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 8 patch: 0 }
dnn_version_info { major: 9 minor: 7 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_OPTIONS: dict[str, bool | str] = {"xla_gpu_autotune_level": "0"}

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_INSTRUCTION = r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(.*)$"


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one run of a program."""

    kernels: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0

    def plus(self, other: "Counts", times: float = 1.0) -> "Counts":
        """The sum with so many of another."""
        return Counts(
            self.kernels + times * other.kernels,
            self.read_bytes + times * other.read_bytes,
            self.written_bytes + times * other.written_bytes,
        )


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    size: int  # bytes of its result
    op: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def called(self, key: str) -> str | None:
        found = re.search(rf"{key}=%?([\w.\-]+)", self.rest)
        return found and found.group(1)


class CompilerMissing(RuntimeError):
    """There is no compiler for CUDA."""


def compile_for_h100(function: Callable[..., Any], *shapes: Any, donate: int) -> Any:
    """Compile a function of trees of shapes; its result is on the (absent) device.

    Args:
      function: Jittable.
      *shapes: Trees of ``jax.ShapeDtypeStruct``.
      donate: Number of the argument that is donated.

    Raises:
      CompilerMissing: If the plugin of the ``cuda`` extra is missing.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=_H100, topology="1x1x1"
        )
    except Exception as error:
        raise CompilerMissing(
            "no compiler for CUDA here: pip install 'mulo[cuda]' (a GPU is not needed)."
        ) from error
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    jitted = jax.jit(function, out_shardings=sharding, donate_argnums=donate)
    # What is traced on a GPU.
    with (
        mock.patch.object(jax, "default_backend", return_value="gpu"),
        mock.patch.object(jax, "device_count", return_value=1),
    ):
        traced = jitted.trace(*placed)
    from jax._src import xla_bridge

    # It looks for a live backend of the platform's alias.
    known = xla_bridge.canonicalize_platform

    def canonical(platform: str) -> str:
        return "cuda" if platform in ("gpu", "cuda") else known(platform)

    with mock.patch.object(xla_bridge, "canonicalize_platform", canonical):
        return traced.lower(lowering_platforms=("cuda",)).compile(_OPTIONS)


def count(program: str) -> Counts:
    """Count kernels, and the bytes they read and write, in XLA's optimized text.

    A loop counts as often as it runs, if the text says how often, or else once; of a
    choice the branch that moves most counts; of an array that is only sliced the
    slices, and of one that is updated in place the update.
    """
    computations, entry = _parse(program)
    return _of_computation(computations, computations[entry])


def _parse(program: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if head:
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
            continue
        found = re.match(_INSTRUCTION, line)
        if found and current is not None:
            root, name, kind, op, operands, rest = found.groups()
            names = re.findall(r"%([\w.\-]+)", operands)
            current.append(
                _Instruction(name, _size(kind), op, tuple(names), rest, bool(root))
            )
    return computations, entry


def _size(kind: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", kind)
        if dtype in _BYTES
    )


def _of_computation(
    computations: Mapping[str, Sequence[_Instruction]],
    instructions: Sequence[_Instruction],
) -> Counts:
    sizes = {x.name: x.size for x in instructions}
    total = Counts()
    for x in instructions:
        if x.op in _FREE:
            continue
        if x.op == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', x.rest)
            body = computations[x.called("body") or ""]
            inner = _of_computation(computations, body)
            total = total.plus(inner, float(trips.group(1)) if trips else 1.0)
            continue
        if x.op == "call":
            target = computations[x.called("to_apply") or ""]
            total = total.plus(_of_computation(computations, target))
            continue
        if x.op == "conditional":
            branches = [
                _of_computation(computations, computations[name])
                for name in _branches(x.rest)
            ]
            total = total.plus(max(branches, key=_moved_bytes))
            continue
        fused = x.called("calls") if x.op == "fusion" else None
        if fused:
            read, written = _of_fusion(computations[fused])
        elif x.op == "dynamic-slice":
            read, written = x.size, x.size
        elif x.op == "dynamic-update-slice":
            read = written = sizes[x.operands[1]]
        else:
            read = sum(sizes.get(name, 0) for name in dict.fromkeys(x.operands))
            written = x.size
        total = total.plus(Counts(1.0, read, written))
    return total


def _branches(rest: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if listed:
        return [name.strip().lstrip("%") for name in listed.group(1).split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", rest)


def _moved_bytes(counts: Counts) -> float:
    return counts.read_bytes + counts.written_bytes


def _of_fusion(instructions: Sequence[_Instruction]) -> tuple[int, int]:
    """Bytes read and written."""
    by_name = {x.name: x for x in instructions}
    users: dict[str, list[_Instruction]] = {}
    for x in instructions:
        for name in x.operands:
            users.setdefault(name, []).append(x)

    def read(x: _Instruction) -> int:
        total = 0
        for user in users.get(x.name, ()):
            if user.op == "bitcast":
                total += read(user)
            elif user.op in ("slice", "dynamic-slice") and user.operands[0] == x.name:
                total += user.size
            elif user.op == "dynamic-update-slice" and user.operands[0] == x.name:
                continue
            else:
                return x.size
        return min(total, x.size)

    def written(x: _Instruction) -> int:
        if x.op == "tuple":
            return sum(written(by_name[name]) for name in x.operands)
        if x.op == "bitcast" and x.operands[0] in by_name:
            return written(by_name[x.operands[0]])
        if x.op == "dynamic-update-slice":
            return by_name[x.operands[1]].size
        return x.size

    parameters = [x for x in instructions if x.op == "parameter"]
    root = next(x for x in instructions if x.is_root)
    return sum(map(read, parameters)), written(root)
