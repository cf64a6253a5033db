"""μ-parametrized learned optimizers as optax transformations."""

from mulo import interop as interop
from mulo import mup as mup
from mulo import optimizers as optimizers
from mulo._designed.adafactor import adafactor as adafactor
from mulo._designed.adam import adam as adam
from mulo._designed.adam import adamw as adamw
from mulo._designed.adam import nadamw as nadamw
from mulo._designed.lion import lion as lion
from mulo._designed.muon import muon as muon
from mulo._designed.schedule_free import schedule_free_adamw as schedule_free_adamw
from mulo._designed.sgd import sgd as sgd
from mulo._designed.shampoo import scale_by_shampoo as scale_by_shampoo
from mulo._designed.shampoo import shampoo as shampoo
from mulo._designed.soap import scale_by_soap as scale_by_soap
from mulo._designed.soap import soap as soap
from mulo._learned.annealed_fc import AnnealedFC as AnnealedFC
from mulo._learned.celo import Celo as Celo
from mulo._learned.celo import CeloAdam as CeloAdam
from mulo._learned.celo2 import Celo2 as Celo2
from mulo._learned.elo import ELO as ELO
from mulo._learned.learned_adam import LearnedAdam as LearnedAdam
from mulo._learned.learned_muon import LearnedMuon as LearnedMuon
from mulo._learned.lstm_ff import LSTMFF as LSTMFF
from mulo._learned.rule import Rule as Rule
from mulo._learned.small_fc import SmallFC as SmallFC
from mulo._learned.velo import VeLO as VeLO
from mulo._thetas.files import load as load
from mulo._thetas.files import save as save
from mulo._thetas.pretrained import Pretrained as Pretrained
from mulo._transforms.state_dtype import with_state_dtype as with_state_dtype
from mulo._version import __version__ as __version__
from mulo.mup._transforms import scale_by_mup as scale_by_mup


def __dir__():
    return [*sorted(name for name in globals() if name[0] != "_"), "__version__"]
