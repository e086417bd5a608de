"""When to try again what another server refused."""

import time
from email.utils import parsedate_to_datetime


def retry_after_seconds(text: str, *, most: float) -> float:
    """Return the time that a Retry-After header asks for, in seconds or by a date; 0 if it makes no sense."""
    try:
        seconds = (
            float(text)
            if text.strip().isdecimal()
            else parsedate_to_datetime(text).timestamp() - time.time()
        )
    except (OverflowError, TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), most)
