"""lo-fc: mulo-fc in standard parametrization, for the comparison over widths.

    python -m meta_train --config=configs/lo_fc.py --workdir=runs/lo_fc

All that differs from configs/mulo_fc.py is the parametrization of the task. Variants:
as there.
"""

import ml_collections

from configs import mulo_fc


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = mulo_fc.get_config(variant)
    c.tasks = tuple(f"sp-{name}" for name in c.tasks)
    return c
