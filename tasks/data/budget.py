"""How much of a data set is kept, and whether that fits in device memory."""

from collections.abc import Mapping

import numpy as np

from tasks.data import names

Splits = Mapping[str, Mapping[str, np.ndarray]]


def fit(name: names.DataName, splits: Splits, budget_bytes: int) -> Splits:
    """Keep what ``:first=n`` asks for, and refuse what is larger than the budget.

    Args:
      name: With ``first``: the examples, or tokens, to keep of the train split.
      splits: ``train``, ``valid`` and ``test``. One that is the very same object as
        another is counted once.
      budget_bytes: Of all arrays of all splits together, after ``first``.

    Returns:
      The splits; the arrays are views.

    Raises:
      ValueError: If the train split has fewer examples than ``first``, or the arrays
        need more than the budget.
    """
    count = _count(splits["train"])
    if name.first is not None:
        if name.first > count:
            raise ValueError(
                f"first must be at most {count}, the size of the train split, got "
                f"{name.first} in {str(name)!r}."
            )
        kept = {k: v[: name.first] for k, v in splits["train"].items()}
        splits = {**splits, "train": kept}
    distinct = {id(arrays): arrays for arrays in splits.values()}
    needed = sum(_nbytes(arrays) for arrays in distinct.values())
    if needed > budget_bytes:
        train = _nbytes(splits["train"])
        fitting = (budget_bytes - (needed - train)) // (
            train // _count(splits["train"])
        )
        fix = f"Keep fewer of the train split, as in ':first={fitting}', or"
        raise ValueError(
            f"data set {str(name)!r} needs {_gib(needed)} of device memory, the budget "
            f"(data_budget_bytes) is {_gib(budget_bytes)}. "
            f"{fix if fitting > 0 else 'Its other splits alone exceed it:'} "
            f"set data_budget_bytes to {needed} or more."
        )
    return splits


def _count(split: Mapping[str, np.ndarray]) -> int:
    return next(iter(split.values())).shape[0]


def _nbytes(split: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in split.values())


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**20 else f"{size} bytes"
