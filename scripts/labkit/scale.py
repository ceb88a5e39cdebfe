"""How devices become shares of this machine: cores, quotas, and dilated time.

A device that is `share` times as fast as one core of this machine gets that share of a core. When
the shares are more than the machine has, time is dilated by k: devices and links are k times slower,
round trips k times longer, and what was measured is divided by k.
"""

from dataclasses import dataclass

from .host import LabError

# Of a core that is used up to here, quotas are kept to half a per cent; above, workers and the
# coordinator get into each other's way.
CORE_SHARE_MAX = 0.6
# Shorter quotas are refused by the kernel, and shorter periods are not kept.
QUOTA_MIN_US = 1_000
PERIOD_US = 10_000
PERIOD_MAX_US = 100_000
# What TCP carries of what passes the wire: 1448 of 1514 bytes of an Ethernet frame.
GOODPUT = 1448 / 1514


@dataclass(frozen=True)
class Place:
    """Where a worker computes, and how much of that core it is."""

    core: int
    share: float


def quota(share):
    """The shortest sound period, and the quota in it: (quota, period) in microseconds."""
    period = max(PERIOD_US, QUOTA_MIN_US / share)
    if period > PERIOD_MAX_US:
        raise LabError(f"a quota of {share:.4f} of a core is refused by the kernel",
                       f"the least is {QUOTA_MIN_US / PERIOD_MAX_US}; a smaller --dilation helps, "
                       "or --limit rates")
    return round(share * period), round(period)


def packed(shares, cores):
    """A core for each share, the largest first, each where most is left; none if they do not fit."""
    left = [CORE_SHARE_MAX] * cores
    chosen = [0] * len(shares)
    for i in sorted(range(len(shares)), key=lambda i: -shares[i]):
        core = max(range(cores), key=lambda c: left[c])
        if shares[i] > left[core] + 1e-9:
            return None
        left[core] -= shares[i]
        chosen[i] = core
    return chosen


def least_dilation(shares, cores):
    """The least k at which the shares fit, to two digits; never less than 1."""
    k = 1.0
    while packed([share / k for share in shares], cores) is None:
        k = round(k * 1.05 + 0.005, 2)
    return k


def places(shares, cores, dilation):
    """The place of each worker."""
    shares = [share / dilation for share in shares]
    chosen = packed(shares, cores)
    if chosen is None:
        raise LabError(
            f"devices of {sum(shares):.2f} cores together do not fit into {cores} of which "
            f"{CORE_SHARE_MAX} are used at most",
            f"take --dilation {least_dilation([s * dilation for s in shares], cores)} or more")
    return [Place(core, share) for core, share in zip(chosen, shares)]


def wire_bits_per_s(goodput_mbit_per_s, dilation):
    """What a shaper must let pass so that TCP carries that much, in dilated time."""
    return goodput_mbit_per_s * 1e6 / GOODPUT / dilation
