"""The same run in the simulator, fed with what the lab really is.

Devices are the lab's rates under their places, links what its shapers let pass, round trips those of
its cables; all in dilated time, as the real run has it.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from .host import LabError, program
from .speed import device_text, scaled, sized

# A word from one namespace to another and back, by way of two processes that are woken for it.
ROUND_TRIP_MS = 0.1
# What an emulated link takes for a bundle beside its bytes.
MESSAGE_US = 20


def link_text(link, dilation):
    """A link file of what the lab makes of a link."""
    trip = "\n".join(f"{key} = {ROUND_TRIP_MS / 2}"
                     for key in ("min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"))
    fair = f"airtime_fair = {str(link.airtime_fair).lower()}\n" if link.medium == "air" else ""
    return (f"name = {json.dumps(link.name)}\nsource = \"the lab\"\nmedium = \"{link.medium}\"\n"
            f"send_mbit_per_s = {link.send_mbit_per_s / dilation}\n"
            f"receive_mbit_per_s = {link.receive_mbit_per_s / dilation}\n"
            f"message_us = {MESSAGE_US}\n{fair}\n[round_trip]\n{trip}\n")


def write(folder, scenario, places, rates, dilation, warm, first_frame_s=None,
          interval_ms=None):
    """Writes scenario, cluster, devices and links into a folder; returns the scenario's path."""
    (folder / "head.toml").write_text(link_text(scenario.coordinator, dilation))
    cluster = ['name = "the lab"', "", "[coordinator]", 'link = "./head.toml"']
    for i, (worker, place) in enumerate(zip(scenario.workers, places)):
        own = scaled(rates, place.share)
        text = device_text(worker.name, own, worker.memory_mb)
        power = worker.device.get("power")
        if power:
            text += (f'\n[power]\nsource = "the device file"\nidle_w = {power["idle_w"]}\n'
                     f'active_w = {power["active_w"]}\n')
        (folder / f"device-{i}.toml").write_text(text)
        (folder / f"link-{i}.toml").write_text(link_text(worker.link, dilation))
        joins_s = dilated(worker.joins_s, scenario, dilation, first_frame_s)
        cluster += ["", "[[worker]]", f"name = {json.dumps(worker.name)}",
                    f'device = "./device-{i}.toml"', f'link = "./link-{i}.toml"',
                    f"access_point = {worker.access_point}", f"joins_s = {joins_s}"]
    (folder / "cluster.toml").write_text("\n".join(cluster) + "\n")
    if interval_ms is None:
        interval_ms = scenario.frame_interval_ms * dilation
    lines = [f"model = {json.dumps(sized(scenario.model, scenario.input_size))}",
             f"cluster = {json.dumps(str(folder / 'cluster.toml'))}",
             f"frames = {scenario.frames + warm}",
             f"frame_interval_ms = {interval_ms}",
             f"weights_cached = {str(scenario.weights_cached).lower()}",
             f"start_s = {float(scenario.start_s)}", f'strategy = "{scenario.strategy}"',
             f'wire = "{scenario.wire}"', f'weights = "{scenario.weights}"',
             f'objective = "{scenario.objective}"', f"seed = {scenario.seed}",
             f"stealing = {str(scenario.stealing).lower()}",
             f"frames_in_flight = {scenario.frames_in_flight}",
             f"spot_checks_per_mille = {scenario.spot_checks_per_mille}",
             f"patience_s = {scenario.patience_s * dilation}"]
    if scenario.input_size and not scenario.model.startswith("zoo:"):
        lines.append(f"input_size = {list(scenario.input_size)}")
    if scenario.grid:
        lines.append(f"grid = [{scenario.grid[0]}, {scenario.grid[1]}]")
    if scenario.fused_layers:
        lines.append(f"fused_layers = {scenario.fused_layers}")
    if scenario.handover:
        lines.append(f'handover = "{scenario.handover}"')
    for fault in scenario.faults:
        lines += ["", "[[fault]]",
                  f"at_s = {dilated(fault.at_s, scenario, dilation, first_frame_s)}",
                  f'kind = "{fault.kind}"', f"device = {fault.device}"]
        if fault.other is not None:
            lines.append(f"other = {fault.other}")
        if fault.times is not None:
            lines.append(f"times = {max(1, round(fault.times))}")
        for key in ("for_s", "back_after_s"):
            if getattr(fault, key) is not None:
                lines.append(f"{key} = {getattr(fault, key) * dilation}")
    path = folder / "scenario.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def dilated(at_s, scenario, dilation, first_frame_s):
    """A time of the scenario, in the dilated run whose first frame that counts begins then."""
    if at_s <= scenario.start_s:
        return at_s
    begins = scenario.start_s if first_frame_s is None else first_frame_s
    return begins + (at_s - scenario.start_s) * dilation


def simulate(scenario, places, rates, dilation, warm, folder=None, interval_ms=None):
    """The simulator's report and trace of the lab's twin, both in dilated time."""
    with tempfile.TemporaryDirectory(prefix="tilehive-lab-twin-") as own:
        folder = Path(folder or own)

        def run(first_frame_s):
            path = write(folder, scenario, places, rates, dilation, warm, first_frame_s,
                         interval_ms)
            done = subprocess.run(
                [program("tilehive-sim"), "run", path, "--json", "--trace", folder / "twin.json"],
                capture_output=True, text=True)
            if done.returncode != 0:
                raise LabError(f"the simulator refuses the lab's twin: {done.stderr.strip()}")
            return json.loads(done.stdout), json.loads((folder / "twin.json").read_text())

        report, trace = run(None)
        timed = scenario.faults or any(w.joins_s > scenario.start_s for w in scenario.workers)
        if timed and warm:
            # Times count from the first frame after the warm-up, and only a run tells when that is.
            from .report import frames_of
            report, trace = run(sorted(frames_of(trace).items())[warm][1][0] / 1e9)
        return report, trace
