"""Measures how optimizers generalize: sweeps over width, reports, coordinate checks.

Runs from a checkout (``python -m evaluate …``, ``python -m evaluate.coord_check …``)
and reaches the product and the tasks only through :mod:`mulo` and :mod:`tasks`.

Axis names used in every module here: W widths, S seeds, R learning rates, L lanes
(cells that one program trains side by side), T training steps, B bins of a curve.
"""
