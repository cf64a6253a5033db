"""Released theta, installed as ``mulo.checkpoints``.

One folder per released name, holding ``model.safetensors`` and ``card.json`` as
``mulo.save`` writes them; ``mulo.load("<folder name>")`` finds it here, in an installed
wheel and in a checkout alike. Nothing else belongs in this folder but ``candidates/``:
thetas that meta-training is to go on from, which are not shipped.
"""
