"""The command line of `scripts/lab`."""

import argparse
import sys
import unittest
from pathlib import Path

from . import bench, clean, host, links, moved, peak, run, soak, validate
from .host import LabError


def parser():
    """Every flag, once."""
    top = argparse.ArgumentParser(
        prog="scripts/lab", description="Runs the real programs on an emulated swarm: each device is "
        "a network namespace with a shaped link, a share of this machine's processor and a limit of "
        "memory. Needs root.")
    commands = top.add_subparsers(dest="command", required=True)

    one = commands.add_parser("run", help="run a scenario of the simulator for real")
    one.add_argument("scenario", help="a file, or a name under configs/scenarios")
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--trace", metavar="FILE.json", help="write the timeline here, for "
                     "ui.perfetto.dev and `tilehive-sim diff`")
    one.add_argument("--simulated-trace", metavar="FILE.json", help="write the timeline of the same "
                     "run in the simulator here")
    one.add_argument("--dilation", type=positive, metavar="K", help="make all K times slower, and "
                     "divide times by K [default: the least at which the devices fit]")
    one.add_argument("--strategy", help="which plan, instead of the scenario's")
    one.add_argument("--wire", choices=["auto", "raw", "lossless", "f16"],
                     help="in which form maps travel, instead of the scenario's")
    one.add_argument("--weights", choices=["f32", "f16"],
                     help="in which form weights are kept and travel, instead of the scenario's")
    one.add_argument("--frames", type=int, help="how many frames, instead of the scenario's")
    one.add_argument("--warm", type=int, default=run.WARM, metavar="N", help="frames before those "
                     "that count [default: %(default)s]")
    one.add_argument("--limit", choices=("rates", "time", "quota"), default="rates",
                     help="how a worker is slowed down: a task takes what the device's share of this "
                     "core's measured rates says; or its own processor time divided by the share; or a "
                     "CPU quota stops the whole process [default: rates]")
    one.set_defaults(do=run.command)

    cables = commands.add_parser("links", help="compare shaped links with what they should carry")
    cables.add_argument("--links", default="ethernet-100m,wifi-ac,ethernet-1g", metavar="A,B",
                        help="files of configs/links [default: %(default)s]")
    cables.add_argument("--dilation", type=positive, default=1.0, metavar="K")
    cables.set_defaults(do=links.command)

    both = commands.add_parser("validate", help="compare the simulator with real runs over a matrix")
    sliced(both)
    both.set_defaults(do=validate.command)

    more = commands.add_parser("bench", help="measure what more devices bring")
    more.add_argument("--quick", action="store_true", help="some rows, in about ten minutes")
    sliced(more)
    more.set_defaults(do=bench.command)

    bytes_ = commands.add_parser("bytes", help="compare what plans say that a frame moves with what moved, and "
                                "with what the interfaces carried")
    sliced(bytes_)
    bytes_.set_defaults(do=moved.command)

    most = commands.add_parser("peak", help="measure the memory that a worker takes at most")
    most.set_defaults(do=peak.command)

    long = commands.add_parser("soak", help="run frames without end while devices fail, and look for leaks")
    long.add_argument("--minutes", type=positive, default=60, metavar="N", help="for how long [default: %(default)s]")
    long.add_argument("--interval-ms", type=positive, metavar="MS", help="time from one frame to the next [default: "
                      "three times what one takes]")
    long.add_argument("--sample-s", type=positive, default=60, metavar="SECONDS", help="how often memory and "
                      "descriptors are noted [default: %(default)s]")
    long.add_argument("--into", type=Path, default=validate.RESULTS, metavar="DIR", help="where the page goes "
                      "[default: docs/results]")
    long.add_argument("--logs", type=Path, metavar="DIR", help="keep the logs of all processes here")
    long.add_argument("--trace", type=Path, metavar="FILE.json", help="write the timeline here, for "
                      "ui.perfetto.dev; the coordinator holds it in memory until the end")
    long.set_defaults(do=soak.command)

    tests = commands.add_parser("test", help="test the lab's own arithmetic; needs no root")
    tests.set_defaults(do=test)

    left = commands.add_parser("clean", help="remove what killed labs left behind")
    left.set_defaults(do=clean.command)
    return top


def sliced(command):
    """What commands share that measure a matrix in slices."""
    command.add_argument("--budget", type=positive, default=9e3, metavar="SECONDS", help="measure for "
                         "as long, end with status 75 if something is left, go on the next time")
    command.add_argument("--measure", action="store_true", help="measure alone, and leave the results "
                         "for a run without this, which does not need a quiet machine")
    command.add_argument("--only", default="", metavar="TEXT", help="only what has this in its name, "
                         "without writing results")


def test(_options):
    """Runs the tests of this folder."""
    suite = unittest.defaultTestLoader.discover(str(Path(__file__).parent / "tests"))
    if not unittest.TextTestRunner().run(suite).wasSuccessful():
        raise LabError("a test of the lab failed")


def positive(text):
    """A number above zero."""
    number = float(text)
    if not 0 < number < 1e4:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def main():
    """Runs a command; exits 1 when it failed and 2 when it was asked wrongly."""
    options = parser().parse_args()
    try:
        if options.do not in (test, clean.command, links.command):
            host.settle_programs()
        options.do(options)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


sys.exit(main())
