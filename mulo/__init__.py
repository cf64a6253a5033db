"""μ-parametrized learned optimizers as optax transformations."""

from mulo import interop as interop
from mulo import mup as mup
from mulo import optimizers as optimizers
from mulo._annealed_fc import AnnealedFC as AnnealedFC
from mulo._celo import Celo as Celo
from mulo._celo import CeloAdam as CeloAdam
from mulo._celo2 import Celo2 as Celo2
from mulo._elo import ELO as ELO
from mulo._learned_adam import LearnedAdam as LearnedAdam
from mulo._learned_muon import LearnedMuon as LearnedMuon
from mulo._lstm_ff import LSTMFF as LSTMFF
from mulo._muon import muon as muon
from mulo._mup_transforms import scale_by_mup as scale_by_mup
from mulo._optax_rules import adafactor as adafactor
from mulo._optax_rules import adam as adam
from mulo._optax_rules import adamw as adamw
from mulo._optax_rules import lion as lion
from mulo._optax_rules import nadamw as nadamw
from mulo._optax_rules import schedule_free_adamw as schedule_free_adamw
from mulo._optax_rules import sgd as sgd
from mulo._pretrained import Pretrained as Pretrained
from mulo._rule import Rule as Rule
from mulo._shampoo import scale_by_shampoo as scale_by_shampoo
from mulo._shampoo import shampoo as shampoo
from mulo._small_fc import SmallFC as SmallFC
from mulo._soap import scale_by_soap as scale_by_soap
from mulo._soap import soap as soap
from mulo._state_dtype import with_state_dtype as with_state_dtype
from mulo._theta_files import load as load
from mulo._theta_files import save as save
from mulo._velo import VeLO as VeLO
from mulo._version import __version__ as __version__


def __dir__():
    return [*sorted(name for name in globals() if name[0] != "_"), "__version__"]
