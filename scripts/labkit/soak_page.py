"""What a soak showed: figures, what is wrong with them, the page and its picture."""

import json
from statistics import mean

from . import host, plots
from .validate import machine

# Growth from the second quarter to the last that is no leak yet: caches and the allocator's habits.
GROWTH_MAX, GROWTH_KB_MAX = 0.15, 4_000
DESCRIPTORS_MAX = 8
# A shorter life shows nothing.
SAMPLES_MIN = 8


def told(story, dilation):
    """All figures of a soak, and its faults in words."""
    lives = [life_of(name, pid, samples) for (name, pid), samples in lives_of(story.samples).items()]
    lives = [life for life in lives if life is not None]
    seen = [frame for frame, _ in story.answers]
    lost = sorted(set(range(story.frames)) - set(seen))
    waits = [b - a for (_, a), (_, b) in zip(story.answers, story.answers[1:])]
    faults = ([story.failure] if story.failure else []) + story.ended
    if lost:
        faults.append(f"{len(lost)} frames were lost, frame {lost[0]} first")
    if story.wrong:
        faults.append(f"{len(story.wrong)} answers differ from one device's, frame {story.wrong[0]} first")
    for life in lives:
        if life["leaks"]:
            faults.append(f"`{life['process']}` grew: {life['rss_then_kb']} to {life['rss_last_kb']} kB, "
                          f"{life['descriptors_then']} to {life['descriptors_last']} descriptors")
    report = story.report or {}
    return {
        "machine": machine(), "dilation": dilation, "interval_s": story.interval_s, "frames": story.frames,
        "minutes": round(story.samples[-1]["at_s"] / 60, 1) if story.samples else 0,
        "answers": len(seen), "lost": len(lost), "wrong": len(story.wrong),
        "longest_wait_s": round(max(waits, default=0), 2), "makespan_ms": quantiles(report.get("makespan_ms", [])),
        "reassigned": report.get("reassigned"), "counters": report.get("counters", {}),
        "warnings": story.warnings, "lives": lives, "deeds": story.deeds, "samples": story.samples,
        "faults": faults,
    }


def quantiles(values):
    """The median, the last per cent, the longest."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {"p50": round(ordered[len(ordered) // 2]), "p99": round(ordered[len(ordered) * 99 // 100]),
            "max": round(ordered[-1])}


def lives_of(samples):
    """The samples of each process, from its start to its end: (name, pid) to them."""
    lives = {}
    for row in samples:
        for name, seen in row["processes"].items():
            lives.setdefault((name, seen["pid"]), []).append((row["at_s"], seen))
    return lives


def life_of(name, pid, samples):
    """How a process was in the second quarter of its life and in the last; none where it was short."""
    if len(samples) < SAMPLES_MIN:
        return None
    quarter = len(samples) // 4
    then, last = samples[quarter:2 * quarter], samples[-quarter:]

    def of(rows, key):
        return round(mean(seen[key] for _, seen in rows))
    rss, descriptors = ([of(rows, key) for rows in (then, last)] for key in ("rss_kb", "descriptors"))
    grown = rss[1] - rss[0]
    return {
        "process": name, "pid": pid, "minutes": round((samples[-1][0] - samples[0][0]) / 60, 1),
        "rss_then_kb": rss[0], "rss_last_kb": rss[1], "rss_max_kb": max(seen["rss_kb"] for _, seen in samples),
        "descriptors_then": descriptors[0], "descriptors_last": descriptors[1],
        "leaks": (grown > GROWTH_KB_MAX and grown > GROWTH_MAX * rss[0])
        or descriptors[1] - descriptors[0] > DESCRIPTORS_MAX,
    }


def summary(told):
    """The result in one line."""
    return (f"{told['answers']} of {told['frames']} frames in {told['minutes']} minutes, {told['wrong']} wrong, "
            f"{told['lost']} lost, the longest wait {told['longest_wait_s']} s")


def page(told):
    """The result as Markdown."""
    where, makespan = told["machine"], told["makespan_ms"]
    counters = told["counters"]
    lines = [
        "# Runs without end", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit {where['commit']}, "
        f"`{where['command']}`. Made by `scripts/lab soak`; raw data in `soak.json`.", "",
        f"Tiny YOLOv2 (416x416, exact) on four emulated Raspberry Pi 4 on 100 Mbit/s, {told['dilation']} times as "
        f"slow as these, a frame each {told['interval_s']:.2f} s, one process of the coordinator for all of them. Three "
        "inputs in turn; every answer is compared, bit for bit, with one device's. Again and again one device leaves, "
        "crashes and returns, one is slowed down four times, one is restarted without weights, has a full disk and loses "
        "its cable; one has 64 MB for maps and weights.", "",
        "| | |", "|---|---|",
        f"| frames asked for, answered, lost | {told['frames']}, {told['answers']}, {told['lost']} |",
        f"| answers that differ | {told['wrong']} |",
        f"| minutes | {told['minutes']} |",
        f"| things that happened | {len(told['deeds'])} |",
        f"| longest time from one answer to the next | {told['longest_wait_s']} s |",
    ]
    if makespan:
        lines.append(f"| a frame: median, 99 of 100, longest | {makespan['p50']}, {makespan['p99']}, "
                     f"{makespan['max']} ms |")
    for key, name in (("stolen_tasks", "tasks stolen"), ("backups", "second copies of late tasks"),
                      ("recomputed", "tiles made again"), ("refused", "attempts without memory")):
        if key in counters:
            lines.append(f"| {name} | {counters[key]} |")
    lines += [f"| tasks reassigned | {told['reassigned']} |",
              f"| weights that a full disk did not keep | {told['warnings'].get('could not keep weights')} |", "",
              "## Memory and descriptors", "",
              "Means over the second and the last quarter of each life that was long enough to tell; a growth by more than "
              "15 % and 4 MB, or 8 descriptors, is a fault.", "",
              "![resident memory and descriptors](soak.png)", ""]
    lines += (["| process | minutes | resident, second quarter | last quarter | most | descriptors |",
               "|---|--:|--:|--:|--:|--:|"] if told["lives"]
              else [f"No life had {SAMPLES_MIN} samples, one a minute: too short to tell."])
    for life in told["lives"]:
        lines.append(
            f"| {life['process']} | {life['minutes']} | {life['rss_then_kb'] / 1e3:.1f} MB | "
            f"{life['rss_last_kb'] / 1e3:.1f} MB | {life['rss_max_kb'] / 1e3:.1f} MB | "
            f"{life['descriptors_then']} to {life['descriptors_last']} |")
    lines += ["", "## Faults", ""]
    lines += [f"- {fault}" for fault in told["faults"]] or ["None."]
    return "\n".join(lines) + "\n"


def picture(told, path):
    """Memory and descriptors of each process over time; a process that began anew is a new line."""
    plt = plots.pyplot()
    if plt is None:
        return
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 7), sharex=True)
    colours = {}
    for (name, _), samples in lives_of(told["samples"]).items():
        label = None if name in colours else name
        colour = colours.setdefault(name, f"C{len(colours)}")
        minutes = [at_s / 60 for at_s, _ in samples]
        for axes, key, unit in ((above, "rss_kb", 1e3), (below, "descriptors", 1)):
            axes.plot(minutes, [seen[key] / unit for _, seen in samples], color=colour, label=label, linewidth=1)
    above.set(ylabel="resident memory, MB")
    below.set(ylabel="open descriptors", xlabel="minutes")
    for axes in (above, below):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    above.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(told, folder):
    """Writes the page, the picture and the data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")
    (folder / "soak.md").write_text(page(told))
    picture(told, folder / "soak.png")
    host.say(f"wrote {folder / 'soak.md'}")
