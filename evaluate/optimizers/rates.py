"""Learning rates: the grids a sweep tunes hand-designed rules over by default.

A grid leaves room on both sides of what is usual, half a decade between rates:

* Adam and its kin: the best of AdamW lie between 2e-4 and 3e-3, those of μAdam (base
  width 1) between 0.03 and 0.15 [1]_. SOAP and a Shampoo that is grafted to RMSProp
  take steps of Adam's size; the authors of SOAP use 3e-3 [2]_.
* Lion wants 3 to 10 times less than Adam [3]_.
* Adafactor's rate is a fraction of the weights' size: 1e-2 is common [4]_. Under μP a
  hidden matrix gets 1/√fan_in of it, 0.1 where fan_in is 100.
* Muon's is the spectral norm of a step, 0.02 by its author [5]_.
* Celo2 and ELO leave the rate to the user; under μP (base width 1) it is that of the
  rule their steps are like. Celo2's published rates are 1e-5 to 1e-3.
* SOAP in its whole eigenbasis keeps its rate at any width (for square matrices) even
  under μP, so that the grid is that of the standard parametrization.

References:
  .. [1] Therien et al., `muLO <https://arxiv.org/abs/2406.00153>`_, tables 7 and 9.
  .. [2] Vyas et al., `SOAP <https://arxiv.org/abs/2409.11321>`_.
  .. [3] Chen et al., `Lion <https://arxiv.org/abs/2302.06675>`_, section 4.
  .. [4] Shazeer and Stern, `Adafactor <https://arxiv.org/abs/1804.04235>`_, section 8.
  .. [5] Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon>`_.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates of a rule under one parametrization."""

    grid: tuple[float, ...]  # What a sweep tunes over, rising.
    coord: float  # For the coordinate check: a few steps of it matter, without chaos.


_ADAM = Rates((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 1e-3)
_MU_ADAM = Rates((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 0.03)
_SGD_GRID = (1e-3, 1e-2, 1e-1, 1.0)
_MUON = Rates((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 0.02)

_LEARNED = Rates((1.0,), 1.0)

# By name in :mod:`evaluate.optimizers.names`; the rules that are not here are like
# Adam.
RATES = {
    "sgd": Rates(_SGD_GRID, 0.1),
    "mu_sgd": Rates(_SGD_GRID, 0.3),
    "lion": Rates((1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 3e-4),
    "mu_lion": Rates((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 0.01),
    "adafactor": Rates((1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 0.03),
    "mu_adafactor": Rates((1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0), 0.1),
    "muon": _MUON,
    "mu_muon": _MUON,
    # Learned ones have a factor on their step. Freshly made, these two step like Adam
    # at a rate for μP (`evaluate.optimizers.random_thetas.pretrained`).
    "learned_adam": Rates((1.0,), 0.03),
    "celo_adam": Rates((1.0,), 0.1),
    "celo2": Rates((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 0.01),
    "mu_celo2": Rates((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 0.01),
    "celo2_base": Rates((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 0.03),
    "mu_celo2_base": Rates((3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 0.03),
    "elo": Rates((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 0.1),
    "mu_elo": Rates((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 0.1),
    "mu_soap": dataclasses.replace(_ADAM, coord=3e-3),
}


def of(name: str, *, standard: bool, learned: bool) -> Rates:
    """Return the rates of a rule under one parametrization."""
    default = _LEARNED if learned else _ADAM if standard else _MU_ADAM
    return RATES.get(name, default)
