"""How one leaf takes part in μP."""

import dataclasses
import math
from typing import Any, Literal, get_args

from mulo.mup import _axes as axes_lib
from mulo.mup._axes import Layout

Role = Literal["input", "hidden", "output"]

ROLES: tuple[str, ...] = get_args(Role)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How one leaf takes part in μP. Not a pytree: one leaf in ``jax.tree.map``.

    Attributes:
      role: ``"input"``, ``"hidden"`` or ``"output"``.
      fan_in: Product of the axis sizes on the input side; 1 if there are none.
      fan_out: Product of the axis sizes on the output side; 1 if there are none.
      finite: True if no axis of the leaf grows with width: every rule leaves it alone.
      copies: Independent weights in the leaf, such as the layers of ``nn.scan``, or 3
        for a fused query, key and value; the leaf has ``fan_in * fan_out * copies``
        entries. Rules step each as if it were a leaf of its own.
      layout: Order of a weight's axes, see :func:`infer`.
      copy_axes: Where the copies are: pairs of an axis of the leaf and the number of
        copies it holds, as its outer factor. Empty: in front (``(copies, …)``) or,
        where that does not fit, at the beginning of the output side.
      tied: True for an embedding that is the readout too: its transpose gives the
        logits, which then are to be multiplied by 1/fan_out.
      shape: Of the leaf, if known; not compared.
    """

    role: Role
    fan_in: int
    fan_out: int
    finite: bool = False
    copies: int = 1
    layout: Layout = "in_out"
    copy_axes: axes_lib.CopyAxes = ()
    tied: bool = False
    shape: tuple[int, ...] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(
                f"A μP role is one of {', '.join(ROLES)}; got {self.role!r}."
            )
        for name in ("fan_in", "fan_out", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")
        check_layout(self.layout)
        pairs = tuple(sorted((int(k), int(n)) for k, n in self.copy_axes))
        object.__setattr__(self, "copy_axes", pairs)
        if pairs and math.prod(n for _, n in pairs) != self.copies:
            raise ValueError(
                f"copy_axes must hold as many copies as copies says, got {self!r}."
            )
        if self.tied and self.role != "input":
            raise ValueError(f"A tied embedding has the role 'input', got {self!r}.")

    @property
    def size(self) -> int:
        """Entries of the leaf this belongs to."""
        return self.fan_in * self.fan_out * self.copies


def check_layout(layout: Any, what: str = "layout") -> None:
    if layout not in axes_lib.LAYOUTS:
        raise ValueError(
            f"{what} must be one of {', '.join(axes_lib.LAYOUTS)}; got {layout!r}."
        )
