"""What goes wrong, done to real processes and cables at its time."""

import signal
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deed:
    """One thing to do, at a time of the scenario."""

    at_s: float
    what: str
    device: int
    do: object


def deeds(scenario, swarm, dilation):
    """Everything that happens from outside, in order: faults, their ends, and workers that come late."""
    planned = []

    def add(at_s, what, device, do):
        planned.append(Deed(at_s, what, device, do))

    for i, worker in enumerate(scenario.workers):
        if worker.joins_s > scenario.start_s:
            add(worker.joins_s, "joins", i, lambda i=i: swarm.start_worker(i))
    for fault in scenario.faults:
        add(fault.at_s, fault.kind, fault.device, lambda f=fault: strike(f, swarm))
        if fault.back_after_s is not None:
            add(fault.at_s + fault.back_after_s, f"{fault.kind} ends", fault.device,
                lambda f=fault: heal(f, swarm))
        if fault.for_s is not None:
            add(fault.at_s + fault.for_s, f"{fault.kind} ends", fault.device,
                lambda f=fault: heal(f, swarm))
    return sorted(planned, key=lambda deed: deed.at_s)


def strike(fault, swarm):
    """Does a fault."""
    i = fault.device
    match fault.kind:
        case "crash":
            swarm.end_worker(i)
        case "power-loss":
            # Nobody hears of it: the cable is dead before the process is.
            swarm.network.set_carrier(i, False)
            swarm.end_worker(i)
        case "leave":
            # It may finish its task first; nobody waits for it here, since other events are due.
            signal_to(swarm, i, signal.SIGTERM)
        case _:
            turn(fault, swarm, True)


def heal(fault, swarm):
    """Ends a fault."""
    i = fault.device
    match fault.kind:
        case "crash" | "leave":
            swarm.end_worker(i)
            swarm.start_worker(i)
        case "power-loss":
            swarm.network.set_carrier(i, True)
            swarm.start_worker(i)
        case _:
            turn(fault, swarm, False)


def turn(fault, swarm, on):
    """Turns on or off what leaves the process alive."""
    i = fault.device
    match fault.kind:
        case "slow-down":
            slow(swarm, i, fault.times if on else 1)
        case "stall":
            signal_to(swarm, i, signal.SIGSTOP if on else signal.SIGCONT)
        case "isolate":
            swarm.network.set_carrier(i, not on)
        case "cut":
            swarm.network.set_path(i, fault.other, not on)


def slow(swarm, i, times):
    """Makes a worker's computing take so many times as long."""
    swarm.set_share(i, swarm.places[i].share / times)


def signal_to(swarm, i, number):
    """A signal for a worker that is there."""
    if i in swarm.processes:
        swarm.processes[i].send_signal(number)


class Clock:
    """Does the deeds, counted from the moment at which the first frame that counts begins."""

    def __init__(self, planned, start_s, dilation, first_frame):
        self.planned = planned
        self.start_s = start_s
        self.dilation = dilation
        self.first_frame = first_frame
        self.done = []
        self.errors = []
        self.begun = None
        self.stopped = threading.Event()

    def on_frame(self, number, now):
        """Called as each frame begins."""
        if number == self.first_frame and self.begun is None:
            self.begun = now
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        for deed in self.planned:
            due = self.begun + (deed.at_s - self.start_s) * self.dilation
            if self.stopped.wait(max(0.0, due - time.monotonic())):
                return
            try:
                deed.do()
                self.done.append((time.monotonic() - self.begun, deed))
            except Exception as error:  # What fails here must be told, not lost in a thread.
                self.errors.append(f"{deed.what} of device {deed.device}: {error}")

    def stop(self):
        """Nothing more happens."""
        self.stopped.set()
