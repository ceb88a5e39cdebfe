"""`scripts/lab run`: one scenario, with real programs."""

import json
import os
from dataclasses import replace

from . import faults, host, report, scale, speed, twin
from .files import scenario as read_scenario
from .swarm import Swarm, model_input

# The first frame packs weights, and nothing of it is counted.
WARM = 1
# Of the scenario's patience, what a run may really take at most.
PATIENCE_MAX_S = 150


def prepare(scenario, dilation=None, shares=None):
    """The dilation, and the place of each worker."""
    cores = len(os.sched_getaffinity(0))
    shares = shares or speed.shares(scenario)
    dilation = dilation or scale.least_dilation(shares, cores)
    return dilation, scale.places(shares, cores, dilation)


def arguments(scenario, warm, dilation):
    """What `tilehive run` is told."""
    path = model_input(scenario)
    words = [speed.sized(scenario.model, scenario.input_size), *[path] * (warm + scenario.frames),
             "--strategy", scenario.strategy, "--objective", scenario.objective,
             "--wire", scenario.wire, "--weights", scenario.weights,
             "--in-flight", scenario.frames_in_flight]
    if scenario.frame_interval_ms:
        words += ["--interval", f"{round(scenario.frame_interval_ms * dilation * 1e3)}us"]
    if scenario.grid:
        words += ["--grid", f"{scenario.grid[0]}x{scenario.grid[1]}"]
    if scenario.fused_layers:
        words += ["--fuse", scenario.fused_layers]
    if scenario.handover:
        words += ["--handover", scenario.handover]
    if not scenario.stealing:
        words += ["--no-stealing"]
    if scenario.spot_checks_per_mille:
        words += ["--spot-checks", scenario.spot_checks_per_mille]
    return words


def measure(scenario, dilation, places, rates, warm=WARM, limit="rates"):
    """Runs a scenario for real; the outcome is in dilated time."""
    late = {i for i, w in enumerate(scenario.workers) if w.joins_s > scenario.start_s}
    words = arguments(scenario, warm, dilation)
    patience = min(PATIENCE_MAX_S, scenario.patience_s * dilation + 30)
    with Swarm(scenario, places, dilation, rates, limit) as swarm:
        clock = faults.Clock(faults.deeds(scenario, swarm, dilation), scenario.start_s, dilation, warm)
        outcome = swarm.run(words, late, clock.on_frame, patience)
        clock.stop()
    outcome.marks = [{"at_ms": round(at * 1e3 / dilation, 1), "what": deed.what,
                      "device": deed.device} for at, deed in clock.done]
    outcome.notes += clock.errors
    missed = len(clock.planned) - len(clock.done) - len(clock.errors)
    if missed > 0:
        outcome.notes.append(f"{missed} events of the scenario came after its last frame had ended")
    if any(w.link.round_trip["p50_ms"] > 0.3 for w in scenario.workers):
        outcome.notes.append("round trips and their tails are those of this machine: the kernel's "
                             "netem is not used")
    return outcome


def simulated(scenario, dilation, places, rates, warm=WARM, interval_ms=None):
    """The same in the simulator, with times undilated."""
    told, trace = twin.simulate(scenario, places, rates, dilation, warm,
                                interval_ms=interval_ms)
    return {"report": told, "trace": trace,
            "makespans_ms": report.makespans_ms(trace, warm, dilation),
            "frames_per_s": report.frames_per_s(trace, warm, dilation)}


def command(options):
    """Carries out `scripts/lab run`."""
    scenario = read_scenario(options.scenario)
    if options.strategy:
        scenario = replace(scenario, strategy=options.strategy)
    if options.wire:
        scenario = replace(scenario, wire=options.wire)
    if options.weights:
        scenario = replace(scenario, weights=options.weights)
    if options.frames:
        scenario = replace(scenario, frames=options.frames)
    host.check()
    dilation, places = prepare(scenario, options.dilation)
    for worker, place in zip(scenario.workers, places):
        host.say(f"{worker.name}: {100 * place.share:.1f} % of core {place.core}")
    rates = speed.core()
    outcome = measure(scenario, dilation, places, rates, options.warm, options.limit)
    told = simulated(scenario, dilation, places, rates, options.warm)
    built = report.build(scenario, outcome, told, dilation, options.warm)
    for path, trace in ((options.trace, outcome.trace), (options.simulated_trace, told["trace"])):
        if path:
            with open(path, "w") as out:
                json.dump(report.undilated(trace, dilation), out)
    print(json.dumps(built, indent=2) if options.json else report.text(built))
