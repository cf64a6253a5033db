"""Sets of tasks that are trained or compared together, by name.

``fast_velo``
    What Celo meta-trains on: MNIST, Fashion-MNIST, CIFAR-10 and SVHN as gray images of
    8x8 pixels, each under an MLP of 64, 32 and 10 units (batches of 64). Celo prepares
    the images as ``:velodrome`` does; here they are normalized.
``fast_velo:present``
    Those of the four whose data are there, and the bundled ``digits``.
``sp-fast_velo``, ``sp-fast_velo:present``
    The same in standard parametrization.

References:
  Moudgil et al., `Celo <https://arxiv.org/abs/2501.12670>`_, 2025.
  Therien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024, table 10.
"""

import dataclasses
import logging
import os

from mulo import _hints as hints
from tasks import data, names
from tasks.data import names as data_names

FAST_VELO = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")
_SUITES = ("fast_velo", "fast_velo:present")
_LOG = logging.getLogger(__name__)


def expand(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    check_data: bool = True,
) -> list[str]:
    """Return the task names that an entry of a config's ``tasks`` stands for.

    Args:
      name: A task name, one with a mixture of widths (:func:`tasks.names.expand`), or
        a suite of the module's docstring.
      data_dir: Where tensorflow-datasets keeps its data; see :func:`tasks.data.load`.
      check_data: Whether a suite whose data are missing is an error.

    Raises:
      ValueError: If the name is malformed or a suite's data are missing.
    """
    suite = name.removeprefix("sp-")
    if suite.split(":")[0] != "fast_velo":
        return [str(part) for part in names.expand(name)]
    if suite not in _SUITES:
        raise ValueError(
            f"a suite must be one of {list(_SUITES)}, with or without sp- in front, "
            f"got {name!r}.{hints.question(suite, _SUITES)}"
        )
    if suite == "fast_velo" and not check_data:
        return [_fast_velo_task(source, suite != name) for source in FAST_VELO]
    return fast_velo(data_dir, sp=suite != name, present_only=suite != "fast_velo")


def fast_velo(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    sp: bool = False,
    present_only: bool = False,
) -> list[str]:
    """Return the names of Celo's four tasks.

    Args:
      data_dir: Where tensorflow-datasets keeps its data; see :func:`tasks.data.load`.
      sp: Standard parametrization instead of μP.
      present_only: Leave out the sets that cannot be opened, say so through
        ``logging``, and add ``digits``.

    Raises:
      ValueError: If a set cannot be opened, unless ``present_only``; says which and
        why, for each.
    """
    problems = {}
    for source in FAST_VELO:
        try:
            data.load(_small(source), data_dir)
        except ValueError as error:
            problems[source] = str(error)
    report = "".join(f"\n  {source}: {why}" for source, why in problems.items())
    if problems and not present_only:
        raise ValueError(
            f"fast_velo needs the data of {list(FAST_VELO)}, missing: "
            f"{list(problems)}.{report}\nPrepare them, or use 'fast_velo:present' to "
            "run with the others and digits."
        )
    if problems:
        _LOG.warning("fast_velo goes without %s:%s", list(problems), report)
    sources = [s for s in FAST_VELO if s not in problems]
    sources += ["digits"] * present_only
    return [_fast_velo_task(source, sp) for source in sources]


def _small(source: str) -> data_names.DataName:
    return data_names.DataName(source, size=(8, 8), gray=True)


def _fast_velo_task(source: str, sp: bool) -> str:
    return str(names.TaskName("mlp", 32, 1, _small(source), sp))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of table 10: one kind of model on one data set at several widths."""

    kind: str
    data: str  # lm1b: without its tokenizer.
    widths: tuple[int, ...]
    depth: int
    batch_examples: int
    heads: tuple[int, ...] = ()  # As widths, where the kind has heads.


_MLP_WIDTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
_ATTENTION_WIDTHS = (192, 384, 768, 1024, 2048, 3072)
_HEADS = (3, 6, 8, 8, 16, 16)
_IN32, _IN64 = "imagenet_resized/32x32", "imagenet_resized/64x64"

TABLE_10: tuple[Row, ...] = (
    Row("mlp", _IN32, _MLP_WIDTHS, 3, 4096),
    Row("mlp", _IN64, _MLP_WIDTHS[:-1], 3, 4096),
    Row("mlp", "cifar10", _MLP_WIDTHS, 3, 4096),
    Row("vit", _IN32, _ATTENTION_WIDTHS, 3, 1024, _HEADS),
    Row("transformer", "lm1b", _ATTENTION_WIDTHS, 3, 128, _HEADS),
    Row("mlp", _IN32, (1024,), 16, 128),
    Row("vit", _IN32, (1024,), 16, 128, (8,)),
    Row("transformer", "lm1b", (1024,), 16, 128, (8,)),
)
_WINDOW_TOKENS = 64


def table_10(pieces: str, *, sp: bool = False) -> dict[str, int]:
    """Return the 35 tasks that μLO is evaluated on, with their batch sizes.

    Args:
      pieces: Path of a SentencePiece model of 32k pieces, for lm1b.
      sp: Standard parametrization instead of μP.

    Returns:
      Examples per batch by task name, in the order of the table.
    """
    batches = {}
    for row in TABLE_10:
        text = row.kind == "transformer"
        source = data_names.DataName(row.data, pieces=(32, pieces) if text else None)
        for i, width in enumerate(row.widths):
            options: dict[str, int] = {"heads": row.heads[i]} if row.heads else {}
            if text:
                options["length"] = _WINDOW_TOKENS
            name = names.TaskName(
                row.kind, width, row.depth, source, sp, tuple(options.items())
            )
            batches[str(name)] = row.batch_examples
    return batches
