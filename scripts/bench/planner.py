"""Writes docs/results/planner.md and its picture from planner.json."""

import json
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def short(model):
    return model.removeprefix("zoo:")


def ms(ns):
    return f"{ns / 1e6:.0f} ms" if ns >= 1e8 else f"{ns / 1e6:.1f} ms"


def draw(times, path):
    """Planning time against devices, a line for each model; against layers, a line for each cluster."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4))
    slowest = {}
    for row in times:
        key = (row["model"], row["layers"], row["devices"])
        slowest[key] = max(slowest.get(key, 0), row["s"])
    models = sorted({(layers, model) for model, layers, _ in slowest})
    counts = sorted({count for _, _, count in slowest})
    for layers, model in models:
        points = [slowest[(model, layers, count)] for count in counts]
        left.plot(counts, points, marker="o", label=f"{short(model)}, {layers} layers")
    for count in [n for n in counts if n in (1, 4, 16, 50, 100)]:
        points = [slowest[(model, layers, count)] for layers, model in models]
        right.plot([layers for layers, _ in models], points, marker="o", label="1 device" if count == 1 else f"{count} devices")
    for axes, what in ((left, "devices"), (right, "layers")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(what)
        axes.set_ylabel("planning time, s")
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(fontsize=8)
    left.set_xticks(counts, [str(count) for count in counts])
    right.set_xticks([layers for layers, _ in models], [str(layers) for layers, _ in models])
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def why(row):
    """What the distance to the bound is made of."""
    over = row["makespan_ns"] - row["bound_ns"]
    network = max(0, row["makespan_ns"] - row["free_links_ns"])
    share = min(1, network / over)
    moved = row["moved_bytes"] / 1e6
    computing = (row["free_links_ns"] / row["free_links_bound_ns"] - 1) * 100
    if row["used"] == 1:
        return (f"sharing does not pay over this link, and the bound spreads the work over all "
                f"{row['devices']} devices as if it did; with free links the plan is {computing:.0f} % above its bound")
    if share > 0.7:
        return (f"the bound has no term for moving maps between layers: {share * 100:.0f} % of the distance goes "
                f"with free links; the plan moves {moved:.1f} MB")
    halo = (row["free_redundancy"] - 1) * 100
    halo = f"tiles compute {halo:.0f} % twice for their halo, " if halo >= 1 else ""
    return (f"{share * 100:.0f} % of the distance is the network ({moved:.1f} MB to move, and messages); with free "
            f"links {computing:.0f} % are left: {halo}every device reads the weights of all its layers, whatever its "
            f"share of the rows, and the few rows of late maps do not divide evenly by {row['devices']}")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        report = json.load(file)
    times, matrix, gaps = report["times"], report["matrix"], report["gaps"]
    draw(times, sys.argv[2])
    at = lambda count: max(row["s"] for row in times if row["devices"] == count)
    print("# The planner\n")
    print("Written by `scripts/bench-planner`. All times of frames are predicted ones; planning times are the fastest")
    print("of three on one core, and of each pair of links the slower.\n")
    print("## How long planning takes\n")
    print(f"The slowest of {len({r['model'] for r in times})} models with up to {max(r['layers'] for r in times)} layers: "
          f"**{at(16):.2f} s for 16 devices, {at(100):.2f} s for 100.**\n")
    print("![planning time against devices and layers](planner.png)\n")
    counts = sorted({row["devices"] for row in times})
    print("| model | layers | " + " | ".join(f"{n}" for n in counts) + " |")
    print("|---|---|" + "---|" * len(counts))
    for layers, model in sorted({(row["layers"], row["model"]) for row in times}):
        cells = []
        for count in counts:
            worst = max(r["s"] for r in times if r["model"] == model and r["devices"] == count)
            cells.append(f"{worst:.3f}")
        print(f"| {short(model)} | {layers} | " + " | ".join(cells) + " |")
    print("\nColumns are devices, cells seconds. With many devices only some numbers of them are tried (2, 3, 4, 6, 8,")
    print("12, 16, 24, 32, 64, all), and models with more than 40 places to cut are cut at the 40 that would move least.\n")

    print("## `auto` beside every other strategy\n")
    factors, worse = [], 0
    for row in matrix:
        others = {k: v for k, v in row["makespan_ns"].items() if k != "auto"}
        best = min(others.values())
        factors.append(best / row["makespan_ns"]["auto"])
        worse += row["makespan_ns"]["auto"] > best
    print(f"{len(matrix)} scenarios, one frame each: `auto` is slower than the best of the others in **{worse}**, and")
    print(f"{statistics.geometric_mean(factors):.2f} times as fast as that best in the mean ({min(factors):.2f} to {max(factors):.2f}). "
          "The last columns say how many")
    print("times as long each takes as `auto`.\n")
    names = [name for name in matrix[0]["makespan_ns"] if name != "auto"]
    print("| model | cluster | link | auto | over bound | devices | " + " | ".join(names) + " |")
    print("|---|---|---|---|---|---|" + "---|" * len(names))
    for row in matrix:
        auto = row["makespan_ns"]["auto"]
        best = min(row["makespan_ns"][name] for name in names)
        cells = []
        for name in names:
            value = row["makespan_ns"][name]
            text = f"{value / auto:.2f}"
            cells.append(f"**{text}**" if value == best else text)
        over = (auto / row["bound_ns"] - 1) * 100
        used = min(row["devices"], 99)
        print(f"| {short(row['model'])} | {row['cluster']} | {row['link']} | {ms(auto)} | {over:.0f} % | {used} | "
              + " | ".join(cells) + " |")

    print("\n## Distance to the lower bound\n")
    print("Devices alike, 6 G multiply-adds a second each. Where a plan is more than 25 % above the bound, why: what")
    print("goes when the same devices are planned for with links that cost nothing is the network's.\n")
    print("| model | devices | link | one device | auto | bound | over | why |")
    print("|---|---|---|---|---|---|---|---|")
    for row in gaps:
        over = row["makespan_ns"] / row["bound_ns"] - 1
        reason = why(row) if over > 0.25 else ""
        print(f"| {short(row['model'])} | {row['devices']} | {row['link']} | {ms(row['one_device_ns'])} | "
              f"{ms(row['makespan_ns'])} | {ms(row['bound_ns'])} | {over * 100:.0f} % | {reason} |")

    print("\n## Playing plans through\n")
    print("For one frame on up to 16 devices, `plan` and `run` simulate the last few plans and make the best of them better by")
    print("simulation. Devices are as above, frames are simulated ones by the plan that came of it. Each is planned once.\n")
    rows = report["rehearsals"]
    gains = [row["alone_ns"] / row["rehearsed_ns"] for row in rows]
    print(f"Planning takes {max(row['rehearsed_s'] for row in rows):.2f} s at most in place of "
          f"{max(row['alone_s'] for row in rows):.2f}; frames are {statistics.geometric_mean(gains):.3f} times as fast in the mean "
          f"({min(gains):.3f} to {max(gains):.3f}).\n")
    print("| model | layers | devices | link | planned in | with rehearsals | frame | with rehearsals |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {short(row['model'])} | {row['layers']} | {row['devices']} | {row['link']} | {row['alone_s']:.2f} s | "
              f"{row['rehearsed_s']:.2f} s | {ms(row['alone_ns'])} | {ms(row['rehearsed_ns'])} |")
    print("\nWhat changed since these figures were last made, and why: `planner-findings.md`.")


main()
