"""Numbers that come from users."""

from __future__ import annotations

import operator
from typing import Any

from ._errors import UsageError


def whole(name: str, value: Any, least: int = 0) -> int:
    """A whole number of any type, from ``least`` on and below 2^63. Raises TypeError or UsageError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {type(value).__name__}") from None
    if not least <= number < 1 << 63:
        raise UsageError(f"{name} {number}: expected a whole number from {least} on")
    return number


def pair(name: str, value: Any) -> tuple[int, int]:
    """Width and height, at least 1 each. Raises TypeError or UsageError."""
    try:
        width, height = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a width and a height, got {value!r}") from None
    return whole(f"{name}: width", width, 1), whole(f"{name}: height", height, 1)
