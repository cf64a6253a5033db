"""Optimizers designed by hand, under the standard parametrization and μP.

Without a μP tree optax's own (SGD, Adam, Lion, Adafactor, schedule-free AdamW) are
optax's. With one, every leaf's step is multiplied by the factor that its optimizer
needs (:func:`mulo.mup.update_multipliers`), between what makes the direction and the
learning rate. State and arithmetic are float32 whatever the parameters' dtype (float64
for float64); a NaN goes through as optax lets it: it stays in its leaf. Without a μP
tree ``base_width`` and ``weight_decay_rule`` are checked and change nothing.
"""
