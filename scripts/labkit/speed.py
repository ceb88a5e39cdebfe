"""How fast this machine is, and which share of it a device is.

A worker under a quota cannot measure itself: a probe of a few milliseconds fits into one period's
quota and sees the whole core. So the core is measured once without a quota, and a worker is told its
share of these rates (`tilehive-worker --rates`).
"""

import json
import os
import shutil
import tempfile
import tomllib
from pathlib import Path

from .host import call, own_folder, program, programs_hash, say

# A link that takes no time, to be told computing alone.
INSTANT = """name = "none"
source = "made by the lab"
medium = "wire"
send_mbit_per_s = 1000000
receive_mbit_per_s = 1000000
message_us = 0
[round_trip]
min_ms = 0
p50_ms = 0
p90_ms = 0
p99_ms = 0
max_ms = 0
"""
ROUNDS = 5


def core():
    """The rates of one core of this machine, by key, in thousands of millions a second.

    Measured once for each build of the programs: the best of some rounds by the sum of all classes'
    rates, since whatever disturbs a round makes it slower.
    """
    kept = own_folder() / f"core-{programs_hash()}.json"
    if not kept.is_file():
        say(f"measuring one core of this machine ({kept} keeps it)")
        kept.write_text(json.dumps(measure_core(), indent=1))
    return json.loads(kept.read_text())


def measure_core():
    """One thread on one core, some times; of each class the median."""
    affinity = os.sched_getaffinity(0)
    rounds = []
    folder = Path(tempfile.mkdtemp(prefix="tilehive-lab-core-"))
    try:
        os.sched_setaffinity(0, {min(affinity)})
        for i in range(ROUNDS):
            call(program("tilehive"), "calibrate", "--threads", 1, "-o", folder / str(i),
                 "--state", folder / "state")
            table = tomllib.loads((folder / str(i) / "device-0.toml").read_text())["rates"]
            table.pop("source")
            rounds.append(table)
    finally:
        os.sched_setaffinity(0, affinity)
        shutil.rmtree(folder)
    return {key: sorted(r[key] for r in rounds)[ROUNDS // 2] for key in rounds[0]}


def device_text(name, rates, memory_mb, overhead_ms=0.1):
    """A device file of one thread with these rates."""
    lines = [f"name = {json.dumps(name)}", "threads = 1", "speedup_by_threads = [1.0]",
             f"memory_mb = {max(1, round(memory_mb))}", f"tile_overhead_ms = {overhead_ms}", "",
             "[rates]", 'source = "measured by the lab"']
    return "\n".join(lines + [f"{key} = {value:e}" for key, value in rates.items()]) + "\n"


def scaled(rates, share):
    """The rates of a share of a core."""
    return {key: value * share for key, value in rates.items()}


def rates_json(rates):
    """The rates as `tilehive-worker --rates` takes them: units a second, in the order of classes."""
    return json.dumps([max(1, round(value * 1e9)) for value in rates.values()])


def sized(model, input_size):
    """A model's name with its input size, as the programs take it."""
    if input_size is None or "@" in model or not model.startswith("zoo:"):
        return model
    return f"{model}@{input_size[0]}x{input_size[1]}"


def one_device_ms(model, device_file):
    """The predicted time of a model on one device."""
    with tempfile.TemporaryDirectory(prefix="tilehive-lab-plan-") as folder:
        folder = Path(folder)
        (folder / "link.toml").write_text(INSTANT)
        shutil.copy(device_file, folder / "device.toml")
        cluster = folder / "cluster.toml"
        cluster.write_text('name = "one"\n[coordinator]\nlink = "./link.toml"\n'
                           '[[worker]]\ndevice = "./device.toml"\nlink = "./link.toml"\n')
        told = json.loads(call(program("tilehive"), "plan", model, "--on", cluster,
                               "--strategy", "local", "--json"))
    return told["cost"]["one_device_ns"] / 1e6


def shares(scenario):
    """Which share of one core each device is, for the scenario's model."""
    model = sized(scenario.model, scenario.input_size)
    times = {}
    with tempfile.TemporaryDirectory(prefix="tilehive-lab-core-") as folder:
        path = Path(folder) / "core.toml"
        path.write_text(device_text("core", core(), 100_000))
        here = one_device_ms(model, path)
    for worker in scenario.workers:
        if worker.device_path not in times:
            times[worker.device_path] = one_device_ms(model, worker.device_path)
    return [here / times[worker.device_path] for worker in scenario.workers]
