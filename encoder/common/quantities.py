"""Numbers as users write them, such as 500k or 2.5M."""

import re

FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_quantity(text: str | int, unit: str = "") -> float:
    """Return a number that k, M or G may follow, and a unit; 0 for other texts."""
    form = rf"(\d{{1,15}}(?:\.\d{{1,15}})?)([kMG]?)(?:{unit})?"
    match = re.fullmatch(form, str(text), re.ASCII)
    return float(match[1]) * FACTORS[match[2]] if match else 0.0
