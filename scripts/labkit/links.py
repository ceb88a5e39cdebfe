"""`scripts/lab links`: whether shaped links carry what they should, before anybody believes the rest.

Blocks over plain TCP: alone, several senders to one receiver, and from station to station in the air.
"""

import json
import os
import subprocess
import sys
import time
from statistics import median

from . import files, host
from .network import Network
from .swarm import ends_with_the_lab

ERROR_MAX = 0.05
SIZES = (50_000, 200_000, 1_000_000)
PORT = 47800


def transfer(network, senders, receiver, size, rounds):
    """Seconds of a block from each of these ends to one, at the same time: the median of one sender's,
    and of several what all of theirs took together, for each block."""
    environment = {**os.environ, "PYTHONPATH": str(host.ROOT / "scripts")}

    def inside(end, *words):
        return subprocess.Popen(
            ["ip", "netns", "exec", network.namespace(end), sys.executable, "-m",
             "labkit.transfer", *map(str, words)],
            stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=ends_with_the_lab)
    taker = inside(receiver, "receive", PORT, len(senders))
    taker.stdout.readline()
    begin = time.time() + 1.0 + 3 * size / 1e6
    givers = [inside(end, "send", network.address(receiver), PORT, size, rounds, begin)
              for end in senders]
    times = [json.loads(giver.communicate(timeout=60)[0]) for giver in givers]
    taker.wait(10)
    if len(senders) == 1:
        return median(end - start for start, end in times[0])
    return (max(own[-1][1] for own in times) - begin) / rounds


def cases(link):
    """Senders, receiver, and the part of the link's rate that each sender has."""
    yield "to the coordinator", [0], "c", 1.0
    yield "from the coordinator", ["c"], 0, 1.0
    if link.medium == "air":
        yield "station to station", [0], 1, 0.5
        yield "three at once", [0, 1, 2], "c", 1 / 3
    else:
        yield "worker to worker", [0], 1, 1.0
        yield "three at once", [0, 1, 2], 3, 1 / 3


def check(reference, dilation):
    """Rows of one kind of link: what was measured beside bytes / rate."""
    link = files.link(reference, None)
    fast = files.link("ethernet-1g", None)
    network = Network(os.getpid(), dilation)
    rows = []
    try:
        network.start()
        # The coordinator's own link is out of the way, as far as the link in question is slower.
        network.attach("c", fast if link.send_mbit_per_s < 500 else link)
        for end in range(4):
            network.attach(end, link)
        rate = link.send_mbit_per_s * 1e6 / 8 / dilation
        for what, senders, receiver, part in cases(link):
            for size in SIZES if len(senders) == 1 else SIZES[-1:]:
                rounds = 12 if size < 500_000 else 5
                real = transfer(network, senders, receiver, size, rounds)
                model = size / (rate * part)
                rows.append({"link": reference, "dilation": dilation, "what": what, "bytes": size,
                             "real_ms": real * 1e3, "model_ms": model * 1e3,
                             "error": model / real - 1})
    finally:
        network.stop()
    return rows


def command(options):
    """Carries out `scripts/lab links`."""
    host.check()
    rows = []
    for reference in options.links.split(","):
        for row in check(reference, options.dilation):
            rows.append(row)
            host.say(f"{row['link']:<16}{row['what']:<22}{row['bytes']:>9} B{row['real_ms']:>9.2f} ms"
                     f"{row['model_ms']:>9.2f} by the model{100 * row['error']:>+7.1f} %")
    alone = [abs(row["error"]) for row in rows if row["what"] != "three at once"]
    print(json.dumps({"rows": rows, "mean_error": sum(alone) / len(alone),
                      "worst_error": max(alone)}, indent=1))
    if sum(alone) / len(alone) > ERROR_MAX:
        raise host.LabError(f"links are {100 * sum(alone) / len(alone):.1f} % off on average",
                            "other programs may use this machine; try again when it is quiet")
