"""μLO_M: the paper's multiple-width recipe (arXiv 2406.00153, appendix C).

    python -m meta_train --config=configs/paper_mulo_m.py --workdir=runs/paper_m

As ``paper_mulo_s``, with the gradients of widths 128, 512 and 1,024 averaged. The
authors report 103 hours on one A6000. Not run here yet. Variants: ``full`` and
``smoke``.
"""

import ml_collections

from configs import paper_mulo_s


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = paper_mulo_s.get_config(variant)
    widths = (8, 16) if variant == "smoke" else (128, 512, 1_024)
    data = "synthetic:32x32x3:1000" if variant == "smoke" else "imagenet_resized/32x32"
    c.tasks = tuple(f"mlp-w{width}-d3-{data}" for width in widths)
    return c
