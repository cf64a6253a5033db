"""The maximal-update parametrization (μP): roles, and what each role gets.

A model is described twice, at two widths. Axes whose size differs between the two
are called *infinite*; which sides of a weight they lie on decides its role:

========  ====================  ==============  ==================  ==============
role      infinite axes         init variance   forward multiplier  Adam-like step
========  ====================  ==============  ==================  ==============
input     none, or output side  1/fan_in        1                   1
hidden    both sides            1/fan_in        1                   base/fan_in
output    input side only       0 (zeros)       base/fan_in         1
========  ====================  ==============  ==================  ==============

Biases, norm gains and embeddings count as input. Learned optimizers follow the
Adam-like rule (μLO, arXiv 2406.00153, section 4); the other optimizers' rules are
derived in :func:`update_multipliers`. The forward multiplier is applied by the model,
to its logits; the step's by the optimizer.
"""

from mulo.mup._axes import Layout as Layout
from mulo.mup._init import describe as describe
from mulo.mup._init import init as init
from mulo.mup._multipliers import OPTIMIZERS as OPTIMIZERS
from mulo.mup._multipliers import align as align
from mulo.mup._multipliers import forward_multiplier as forward_multiplier
from mulo.mup._multipliers import init_std as init_std
from mulo.mup._multipliers import update_multipliers as update_multipliers
from mulo.mup._roles import infer as infer
from mulo.mup._scaling import Role as Role
from mulo.mup._scaling import Scaling as Scaling


def __dir__():
    return sorted(name for name in globals() if name[0] != "_")
