"""`scripts/lab validate`: the simulator beside the real programs, over a matrix of scenarios."""

import json
import platform
import subprocess
import sys
from datetime import date

from . import cells, host, matrix, plots, stats

RESULTS = host.ROOT / "docs" / "results"
# Plans whose times differ by less are as good as equal.
TIE = 0.02


def value(cell_, told):
    """What a cell is judged by: the time of a frame, or of streams the time from one to the next."""
    if cell_.scenario.frames_in_flight > 1:
        return 1e3 / told["frames_per_s"]
    return told["makespan_ms"]


def rows_of(chosen, measured):
    """A row for each cell: real, simulated, planned."""
    rows = []
    for c in chosen:
        told = measured[c.name]["report"]
        real = value(c, told)
        rows.append({
            "cell": c.name, "group": c.group,
            "is_stream": c.scenario.frames_in_flight > 1, "has_event": bool(c.scenario.faults),
            "real_ms": real, "simulated_ms": value(c, told["simulated"]),
            "planned_ms": told["predicted_makespan_ms"],
            "runs_ms": told["makespans_ms"],
        })
    return rows


def summary(rows):
    """What is claimed: errors, and the ranking within each group."""

    def of(chosen, key):
        return stats.errors([(r["real_ms"], r[key]) for r in chosen])
    frames = [r for r in rows if not r["is_stream"] and not r["has_event"]]
    groups = {}
    for row in rows:
        if not row["has_event"]:
            groups.setdefault(row["group"], []).append((row["real_ms"], row["simulated_ms"]))
    taus = {name: stats.kendall_tau(pairs, TIE) for name, pairs in groups.items()}
    return {
        "latency": of(frames, "simulated_ms"),
        "latency_by_the_planner": of(frames, "planned_ms"),
        "throughput": of([r for r in rows if r["is_stream"]], "simulated_ms"),
        "events": of([r for r in rows if r["has_event"]], "simulated_ms"),
        "tau_by_group": taus, "tau": sum(taus.values()) / max(1, len(taus)),
        "regret": {name: stats.regret(pairs) for name, pairs in groups.items()},
        "worst": sorted(rows, key=lambda r: -abs(stats.relative(r["real_ms"], r["simulated_ms"])))[:5],
    }


def machine():
    """Date, processor and versions, for the page."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "-C", host.ROOT, "rev-parse", "--short", "HEAD"],
                            capture_output=True, text=True).stdout.strip()
    return {"date": date.today().isoformat(), "processor": cpu, "kernel": platform.release(),
            "python": platform.python_version(), "commit": commit,
            "command": "scripts/lab " + " ".join(sys.argv[1:])}


def page(told, rows, where, failed):
    """The result as Markdown."""
    def error(e):
        return (f"{100 * e['mean']:.1f} % mean, {100 * e['median']:.1f} % median, {100 * e['worst']:.1f} % worst, bias "
                f"{100 * e['bias']:+.1f} % ({e['count']})")
    lines = [
        "# The simulator beside real programs", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit "
        f"{where['commit']}, `{where['command']}`. Made by `scripts/lab validate`; raw data in "
        "`lab-validate.json`.", "",
        "Each scenario ran with real workers in network namespaces with shaped links, computing "
        "paced to a share of a core, and in the simulator with the same shares and links. Nothing is "
        "fitted to these runs, so nothing is held out: rates are those of the core alone, links what "
        "the shapers let pass (`scripts/lab links`).", "",
        "![real and simulated times](lab-validate.png)", "", "| what | error |", "|---|---|",
        f"| latency | {error(told['latency'])} |",
        f"| latency, as the planner predicted before the frame | "
        f"{error(told['latency_by_the_planner'])} |",
        f"| throughput of streams | {error(told['throughput'])} |",
        f"| frames with an event in them | {error(told['events'])} |",
        f"| order of plans, Kendall's tau, mean of {len(told['tau_by_group'])} groups | "
        f"{told['tau']:.2f} |",
        f"| regret of the plan that the simulator would choose, at worst | "
        f"{100 * max(told['regret'].values()):.1f} % |", "",
"## The five worst", "", "| scenario | real | simulated | error |",
        "|---|---|---|---|"]
    for row in told["worst"]:
        lines.append(f"| {row['cell']} | {row['real_ms']:.1f} ms | {row['simulated_ms']:.1f} ms | "
                     f"{100 * stats.relative(row['real_ms'], row['simulated_ms']):+.1f} % |")
    lines += ["", "What they come from: `lab-findings.md`.", "", "## All", "", "Above zero: reality was faster than simulated. Runs are the frames "
              "that were counted, after the warm-up.", "",
              "| scenario | real | simulated | error | runs, ms |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (r["group"], r["cell"])):
        runs = ", ".join(f"{ms:.0f}" for ms in row["runs_ms"][:6])
        lines.append(f"| {row['cell']} | {row['real_ms']:.1f} | "
                     f"{row['simulated_ms']:.1f} | "
                     f"{100 * stats.relative(row['real_ms'], row['simulated_ms']):+.1f} % | {runs} |")
    lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(lines) + "\n"


def command(options):
    """Carries out `scripts/lab validate`; ends with status 75 while scenarios are left."""
    host.check()
    chosen = [c for c in matrix.cells() if options.only in c.name]
    store = cells.Store("validate")
    by_name = {c.name: c for c in chosen}
    left = store.fill(list(by_name), lambda name: cells.measure(by_name[name]), options.budget)
    if left:
        raise host.LabError(f"{left} scenarios are left", "run it again: it goes on where it was",
                            status=cells.LEFT)
    if options.measure:
        return
    measured = {name: store.read(name) for name in by_name}
    failed = {name: m["failed"].splitlines()[0] for name, m in measured.items() if "failed" in m}
    chosen = [c for c in chosen if c.name not in failed]
    rows = rows_of(chosen, measured)
    told, where = summary(rows), machine()
    if not options.only:
        raw = {"machine": where, "summary": told, "rows": rows,
               "failed": failed, "core": next(iter(measured.values())).get("core")}
        (RESULTS / "lab-validate.json").write_text(json.dumps(raw, indent=1) + "\n")
        (RESULTS / "lab-validate.md").write_text(page(told, rows, where, failed))
        plots.scatter(rows, RESULTS / "lab-validate.png")
    print(page(told, rows, where, failed))
