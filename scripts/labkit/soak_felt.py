"""Whether what is done to the devices of a soak is felt: a fault that nobody notices tests nothing."""

import re
import subprocess
import sys
from collections import Counter

from .host import LabError, call

# Where each worker tells its numbers: in its own namespace.
METRICS = "127.0.0.1:9477"
READ = f"import urllib.request as r; print(r.urlopen('http://{METRICS}/metrics', timeout=5).read().decode())"

SLOW = "slowed down four times"
LEAVES = "leaves"
CRASHES = "crashes"
RESTARTS = "restarts without weights, on a full disk"
CABLE = "the cable is out"


def numbers(swarm, i):
    """What a worker counts, by name; nothing where it does not answer."""
    try:
        page = call("ip", "netns", "exec", swarm.network.namespace(i), sys.executable, "-SEc", READ, timeout=10)
    except (LabError, subprocess.TimeoutExpired):
        return {}
    return parsed(page)


def parsed(page):
    """The numbers without labels on a worker's page."""
    found = re.findall(r"^tilehive_worker_(\w+) ([0-9.e+-]+)$", page, re.MULTILINE)
    return {name: float(value) for name, value in found}


class Felt:
    """What devices counted while something was done to them."""

    def __init__(self, swarm):
        self.swarm = swarm
        self.before = {}
        self.sums = Counter()

    def begin(self, i):
        """From now on something is done to a device."""
        self.before[i] = numbers(self.swarm, i)

    def end(self, i, what):
        """It is over. Adds what the device counted since it began, or since the device started."""
        before, now = self.before.pop(i, {}), numbers(self.swarm, i)
        for name in ("tasks_total", "cache_unwritten_total", "cache_evicted_total"):
            self.sums[what, name] += int(now.get(name, 0) - before.get(name, 0))


def losses(said, name):
    """Why the coordinator lost a device, each time, as its log says."""
    ids = set(re.findall(rf"(w\d+) joined: {re.escape(name)} \(", said))
    return [reason for worker, reason in re.findall(r"INFO (w\d+) left: (.*)", said) if worker in ids]


def spared_mb(samples, little):
    """How much less memory a worker took, at its most, than every other one at its most."""
    most = {}
    for row in samples:
        for name, seen in row["processes"].items():
            most[name] = max(most.get(name, 0), seen["rss_kb"])
    others = [kilobytes for name, kilobytes in most.items() if name not in (little, "coordinator")]
    return max(0, round((min(others) - most[little]) / 1e3)) if others and little in most else 0


def signs(deeds, sums, leaving, full, spared):
    """Each thing that was done, how often, what shows it, and how often that was seen.

    `leaving` and `full` are the losses of the two devices that are lost, `spared` the megabytes that the one with
    little memory stayed below the others.
    """
    times = Counter(deed["what"] for deed in deeds)
    silences = sum("silent" in reason for reason in full)
    lost = "losses that the coordinator noticed"
    rows = [
        ("little memory, always", 1, "MB that it stayed below every other worker", spared),
        (SLOW, times[SLOW], "tasks that it computed meanwhile", sums[SLOW, "tasks_total"]),
        (f"{LEAVES}, or {CRASHES}", times[LEAVES] + times[CRASHES], lost, len(leaving)),
        (RESTARTS, times[RESTARTS], lost, len(full) - silences),
        (RESTARTS, times[RESTARTS], "weights that the disk did not take",
         sums[RESTARTS, "cache_unwritten_total"]),
        (RESTARTS, times[RESTARTS], "tasks that it computed all the same", sums[RESTARTS, "tasks_total"]),
        (CABLE, times[CABLE], "silences that the coordinator noticed", silences),
    ]
    return [{"what": what, "times": done, "sign": sign, "seen": seen} for what, done, sign, seen in rows if done]


def unfelt(rows):
    """What was done and never seen, in words."""
    return [f"`{row['what']}` was done {row['times']} times without a trace: no {row['sign']}"
            for row in rows if not row["seen"]]
