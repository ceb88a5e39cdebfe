"""What a soak showed: figures, what is wrong with them, the page and its picture."""

import json
from statistics import mean

from . import host, plots, soak_felt

# Growth from the second quarter to the last that is no leak yet: caches and the allocator's habits.
GROWTH_MAX, GROWTH_KB_MAX = 0.15, 4_000
DESCRIPTORS_MAX = 8
# A shorter life shows nothing: caches fill, and what comes around every four minutes was not there twice.
LIFE_MIN_S, SAMPLES_MIN = 420, 8


def told(story, dilation, in_flight):
    """All figures of a soak, and its faults in words."""
    lives = [life_of(name, pid, samples) for (name, pid), samples in lives_of(story.samples).items()]
    lives = [life for life in lives if life is not None]
    seen = [frame for frame, _ in story.answers]
    lost = sorted(set(range(story.frames)) - set(seen))
    faults = ([story.failure] if story.failure else []) + story.ended
    if lost:
        faults.append(f"{len(lost)} frames were lost, frame {lost[0]} first")
    if story.wrong:
        faults.append(f"{len(story.wrong)} answers differ from one device's, frame {story.wrong[0]} first")
    for life in lives:
        if life["leaks"]:
            faults.append(f"`{life['process']}` grew: {life['rss_then_kb']} to {life['rss_last_kb']} kB, "
                          f"{life['descriptors_then']} to {life['descriptors_last']} descriptors")
    faults += soak_felt.unfelt(story.signs)
    report = story.report or {}
    makespans = report.get("makespan_ms", [])
    waits = waits_by_deed(story.answers, story.deeds)
    return {
        "machine": story.machine, "dilation": dilation, "interval_s": story.interval_s, "frames": story.frames,
        "minutes": round(story.samples[-1]["at_s"] / 60, 1) if story.samples else 0,
        "answers": len(seen), "lost": len(lost), "wrong": len(story.wrong),
        "longest_wait_s": max((longest for _, longest in waits.values()), default=0), "waits": waits,
        "first_ms": round(max(makespans[:in_flight], default=0)), "makespan_ms": quantiles(makespans[in_flight:]),
        "behind_ms": quantiles([1e3 * late for late in behind(story.answers, story.interval_s)]),
        "reassigned": report.get("reassigned"), "counters": report.get("counters", {}),
        "cores": cores(story.samples), "log_bytes": story.log_bytes, "warnings": story.warnings,
        "signs": story.signs, "lives": lives, "deeds": story.deeds, "samples": story.samples, "faults": faults,
    }


def waits_by_deed(answers, deeds):
    """For each thing that was done: how often, and the longest time from one answer to the next that ended between
    it and what was done next."""
    happened = [(0.0, "nothing yet")] + [(deed["at_s"], deed["what"]) for deed in deeds]
    waits = {what: [0, 0.0] for _, what in happened}
    for _, what in happened:
        waits[what][0] += 1
    at = 0
    for (_, before_s), (_, after_s) in zip(answers, answers[1:]):
        while at + 1 < len(happened) and happened[at + 1][0] <= after_s:
            at += 1
        entry = waits[happened[at][1]]
        entry[1] = max(entry[1], round(after_s - before_s, 2))
    return waits


def behind(answers, interval_s):
    """How much later than its turn each answer came, in seconds; the quickest is taken to be on time. Frames whose
    turn was before the first answer waited for weights, and are no part of it."""
    base_s = min((at_s - interval_s * frame for frame, at_s in answers), default=0)
    turns = ((at_s, base_s + interval_s * frame) for frame, at_s in answers)
    return [at_s - turn_s for at_s, turn_s in turns if turn_s >= 0]


def cores(samples):
    """How many cores of this machine all processes together took, on average."""
    spent = 0.0
    for row, following in zip(samples, samples[1:]):
        for name, seen in following["processes"].items():
            before = row["processes"].get(name, {})
            same = before.get("pid") == seen["pid"]
            spent += seen["cpu_s"] - (before["cpu_s"] if same else 0)
    took_s = samples[-1]["at_s"] - samples[0]["at_s"] if samples else 0
    return round(spent / took_s, 2) if took_s else 0


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
    if len(samples) < SAMPLES_MIN or samples[-1][0] - samples[0][0] < LIFE_MIN_S:
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
    where, counters = told["machine"], told["counters"]
    lines = [
        "# Runs without end", "",
        f"{where['date']}, {where['processor']}, kernel {where['kernel']}, commit {where['commit']}, "
        f"`{where['command']}`. Made by `scripts/lab soak`; raw data in `soak.json`.", "",
        f"Tiny YOLOv2 (416x416, exact) on four emulated Raspberry Pi 4 on 100 Mbit/s, {told['dilation']} times as "
        f"slow as these, a frame each {told['interval_s']:.2f} s, one process of the coordinator for all of them. "
        "Three inputs in turn; every answer is compared, bit for bit, with one device's. Again and again one device "
        "leaves, crashes and returns, one is slowed down four times, one is restarted without weights on a full disk, "
        "and loses its cable; one has 64 MB for maps and weights.", "",
        "| | |", "|---|---|",
        f"| frames asked for, answered, lost | {told['frames']}, {told['answers']}, {told['lost']} |",
        f"| answers that differ | {told['wrong']} |",
        f"| minutes | {told['minutes']} |",
        f"| things that happened | {len(told['deeds'])} |",
        f"| longest time from one answer to the next | {told['longest_wait_s']} s |",
        f"| a frame from its first scatter on: median, 99 of 100, longest | {triple(told['makespan_ms'])} |",
        f"| an answer later than its turn: the same | {triple(told['behind_ms'])} |",
        f"| the first frames, for which weights cross the network | {told['first_ms']} ms |",
    ]
    for key, name in (("stolen_tasks", "tasks stolen"), ("backups", "second copies of late tasks"),
                      ("recomputed", "tiles made again"), ("refused", "attempts without memory"),
                      ("fallbacks", "frames that gave up exchanging maps between workers")):
        if key in counters:
            lines.append(f"| {name} | {counters[key]} |")
    logged = told["log_bytes"]
    lines += [
        f"| tasks reassigned | {told['reassigned']} |",
        f"| cores of this machine, on average | {told['cores']} |",
        f"| log with `-v`: coordinator, all workers | {logged.get('coordinator', 0) / 1e3:.0f} kB, "
        f"{sum(size for name, size in logged.items() if name != 'coordinator') / 1e3:.0f} kB |",
        f"| warnings and errors in it | {sum(told['warnings'].values())} |", "",
        "## What was felt", "",
        "What leaves no trace was no test, and is a fault below.", "",
        "| done | times | seen | |", "|---|--:|---|--:|"]
    lines += [f"| {row['what']} | {row['times']} | {row['sign']} | {row['seen']} |" for row in told["signs"]]
    lines += ["", "The longest time from one answer to the next, by what had happened last:", "",
              "| | times | longest |", "|---|--:|--:|"]
    lines += [f"| {what} | {times} | {longest:.2f} s |" for what, (times, longest) in told["waits"].items()]
    lines += ["", "## Memory and descriptors", "",
              "Means over the second and the last quarter of each life that was long enough to tell; a growth by more "
              "than 15 % and 4 MB, or 8 descriptors, is a fault.", "",
              "![resident memory and descriptors](soak.png)", ""]
    lines += (["| process | minutes | resident, second quarter | last quarter | most | descriptors |",
               "|---|--:|--:|--:|--:|--:|"] if told["lives"]
              else ["No life was long enough to tell."])
    for life in told["lives"]:
        lines.append(
            f"| {life['process']} | {life['minutes']} | {life['rss_then_kb'] / 1e3:.1f} MB | "
            f"{life['rss_last_kb'] / 1e3:.1f} MB | {life['rss_max_kb'] / 1e3:.1f} MB | "
            f"{life['descriptors_then']} to {life['descriptors_last']} |")
    lines += ["", "## Faults", ""]
    lines += [f"- {fault}" for fault in told["faults"]] or ["None."]
    return "\n".join(lines) + "\n"


def triple(told):
    """The three quantiles in words."""
    return f"{told['p50']}, {told['p99']}, {told['max']} ms" if told else "unknown"


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
