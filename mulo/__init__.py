"""μ-parametrized learned optimizers as optax transformations."""

from mulo import mup as mup
from mulo._mu_adam import mu_adam as mu_adam
from mulo._mu_adam import mu_adamw as mu_adamw
from mulo._mu_sgd import mu_sgd as mu_sgd
from mulo._small_fc import SmallFC as SmallFC
from mulo._theta_files import Pretrained as Pretrained
from mulo._theta_files import load as load
from mulo._theta_files import save as save
