"""What SOAP and Shampoo check of their settings."""

from typing import Any

from mulo._checks import numbers


def check_known(name: str, value: Any, reason: str) -> None:
    """Raise ValueError if a number is traced that must be known beforehand."""
    if numbers.is_traced(value):
        raise ValueError(
            f"{name} must be known beforehand here, since {reason}; got {value!r}. "
            "With optax.inject_hyperparams name it in static_args."
        )


def check_eps(**values: Any) -> None:
    """Raise ValueError unless numbers that are not traced are finite and >= 0."""
    for name, value in values.items():
        if not numbers.is_traced(value):
            numbers.check_not_negative(name, value)


def check_numbers(precondition_frequency: Any, **decays: Any) -> None:
    """Raise ValueError unless numbers that are not traced are in range."""
    for name, decay in decays.items():
        if not numbers.is_traced(decay):
            numbers.check_decay(name, decay)
    frequency = precondition_frequency
    if numbers.is_traced(frequency):
        return
    # Whole as a float too: optax.inject_hyperparams makes floats of integers.
    if not numbers.is_number(frequency) or not frequency >= 1 or frequency % 1:
        raise ValueError(
            f"precondition_frequency must be an integer >= 1, got {frequency!r}."
        )
