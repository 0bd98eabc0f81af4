"""How long to wait between attempts."""

from __future__ import annotations

from pikkupy.core.commands import Policy


def wait_us(policy: Policy, attempt: int, fraction: float) -> int:
    """Microseconds to wait before `attempt` (2 is the first retry).

    Exponential back-off doubles the delay from retry to retry, up to `policy.max_delay_us`; `fraction`, a random
    number from 0 to 1, says how much of the jitter is added.
    """
    wait = policy.delay_us
    if policy.exponential and wait:
        # 2**63 µs are longer than any limit: the exponent is bounded so that the 10,000th retry stays cheap.
        wait = min(wait << min(attempt - 2, 63), policy.max_delay_us)
    return wait + round(wait * policy.jitter * fraction)
