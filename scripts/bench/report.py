"""The table and the plot of a run."""

import pathlib
import statistics

from engines import ALL, PEERS, TILEHIVE

# Somebody else computed on the same cores for more than this share of the time.
NOISY_SHARE = 0.05
TITLES = {"networks": "Networks", "int8": "Networks in int8", "layers": "Single layers"}


def median_ms(of: dict) -> float | None:
    return of["ns"]["median"] / 1e6 if "ns" in of else None


def fastest_peer(row: dict) -> float | None:
    times = [median_ms(of) for name, of in row["engines"].items() if name in PEERS]
    return min((time for time in times if time), default=None)


def number(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:.1f}" if ms >= 100 else \
        f"{ms:.2f}" if ms >= 10 else f"{ms:.3f}"


def cell(of: dict | None, best: float) -> str:
    """Median, half the distance of the quartiles, and marks."""
    if of is None or "ns" not in of:
        return "-"
    ns, ms = of["ns"], median_ms(of)
    half = (ns["q3"] - ns["q1"]) / 2 / ns["median"] * 100
    text = f"**{number(ms)}**" if ms == best else number(ms)
    error = of.get("error", 0.0)
    wrong = isinstance(error, str) or error > 1e-2
    return f"{text} ±{half:.0f}%" + ("†" if of["others_share"] > NOISY_SHARE else "") \
        + ("‡" if wrong else "")


def disturbed(result: dict) -> str:
    """How much of a run others took part in, which is more than a mark in each cell tells."""
    shares = [of["others_share"] for row in result["rows"] for of in row["engines"].values()
              if "others_share" in of]
    noisy = sum(share > NOISY_SHARE for share in shares)
    if not noisy:
        return ""
    return (f": in {noisy} of {len(shares)} cells, {statistics.median(shares):.0%} in the median "
            "of all cells; what such cells say of each other is rough")


def works(rows: list[dict]) -> dict[str, int]:
    """Multiply-adds by model; a quantised model has those of the one it was made from."""
    known = {row["model"]: row["multiply_adds"] for row in rows if row.get("multiply_adds")}
    for row in rows:
        name, _, style = row["model"].partition(" int8")
        if style and name in known:
            known.setdefault(row["model"], known[name])
    return known


def timings(result: dict, kind: str) -> list[str]:
    rows = [row for row in result["rows"] if row["kind"] == kind]
    if not rows:
        return []
    shown = [name for name in result["engines"]]
    own = [name for name in shown if name.startswith(TILEHIVE)]
    header = ["model", "GFLOP", "threads", *shown]
    for name in own:
        header += [f"{name}: GFLOP/s", "of peak", "time / fastest peer"]
    lines = [f"## {TITLES[kind]}", "", "Milliseconds a call.", "", "| " + " | ".join(header) + " |",
             "|---|" + "---:|" * (len(header) - 1)]
    work = works(result["rows"])
    for row in rows:
        times = [t for t in map(median_ms, row["engines"].values()) if t]
        best = min(times, default=0.0)
        gflop = 2 * work.get(row["model"], 0) / 1e9
        cells = [row["model"], f"{gflop:.3g}" if gflop else "-", str(row["threads"])]
        cells += [cell(row["engines"].get(name), best) for name in shown]
        for name in own:
            ms, peer = median_ms(row["engines"].get(name, {})), fastest_peer(row)
            rate = gflop / ms * 1e3 if ms and gflop else None
            peak = result["peak_gflop_per_s"] * row["threads"]
            cells += [f"{rate:.1f}" if rate else "-", f"{100 * rate / peak:.0f}%" if rate else "-",
                      f"{ms / peer:.2f}" if ms and peer else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines + [""]


def tiles(result: dict) -> list[str]:
    if not result["tiles"]:
        return []
    lines = ["## Tiles", "", "A layer as a 3x3 grid of tiles with halo beside the whole layer, in "
             "turns: time for each multiply-add, tiles / whole. Tiles run one after another, as "
             "on a worker, each reading the weights for itself; or together, in one call that "
             "reads them once for all (`Engine::run_tiles`, which no worker uses yet).", "",
             "| layer | engine | threads | whole ms | tiles ms | together ms | tiles / whole | "
             "together / whole |",
             "|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in result["tiles"]:
        cells = [row["model"], row["engine"], str(row["threads"])]
        cells += ["-"] * 5 if "refused" in row else [
            *(number(row[key]["median"] / 1e6) for key in ("whole_ns", "tiles_ns", "together_ns")),
            f"{row['time_per_multiply_add']:.2f}", f"{row['together_per_multiply_add']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines + [""]


def by_engine(result: dict, key: str, title: str, told: str, shown) -> list[str]:
    rows = result[key]
    if not rows:
        return []
    names = list(dict.fromkeys(row["engine"] for row in rows))
    lines = [f"## {title}", "", told, "", "| model | " + " | ".join(names) + " |",
             "|---|" + "---:|" * len(names)]
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["engine"]: row for row in rows if row["model"] == model}
        lines.append(f"| {model} | " + " | ".join(
            "-" if "refused" in found[name] else shown(found[name]) for name in names) + " |")
    return lines + [""]


def refusals(result: dict) -> list[str]:
    """Every reason once, with the models it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        for name, of in row["engines"].items():
            if "refused" in of:
                reasons.setdefault((name, of["refused"]), []).append(row["model"])
    for key in ("tiles", "memory", "start"):
        for row in result[key]:
            if "refused" in row:
                reasons.setdefault((row["engine"], row["refused"]), []).append(row["model"])
    if not reasons:
        return []
    return ["## Refused", ""] + [
        f"- {name}: {', '.join(dict.fromkeys(of))}: `{why[:300]}`"
        for (name, why), of in reasons.items()] + [""]


def errors(result: dict) -> list[str]:
    """Where outputs differ by more than rounding."""
    lines = []
    for row in result["rows"]:
        for name, of in row["engines"].items():
            error = of.get("error", 0.0)
            limit = 1e-2 if row["kind"] == "int8" else 1e-4
            if isinstance(error, str) or error > limit:
                shown = error if isinstance(error, str) else f"{error:.1e}"
                lines.append(f"- {row['model']}, {name}, {row['threads']} threads: {shown}")
    if not lines:
        return []
    return ["## Outputs that differ", "", "From ONNX Runtime's, the largest difference relative to "
            "the largest value; above 1e-4, or 1e-2 in int8.", "", *lines, ""]


def markdown(result: dict) -> str:
    cpu, versions = result["machine"], result["versions"]
    pace = result["pace"]
    lines = [
        "# Tilehive beside other engines", "",
        f"`{result['command']}`, {result['date']}, {result['seconds']} s. Raw data: `engines.json`.",
        "",
        f"- {cpu['cores']} cores of {cpu['cpu']} ({', '.join(cpu['flags'])})"
        + (", a virtual machine" if cpu["virtual"] else "") + f"; Linux {cpu['kernel']}; "
        f"load average {result['load_average_before']:.2f} before the run.",
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        f"- Peak of one thread's multiply-add units, measured: {result['peak_gflop_per_s']:.0f} "
        f"GFLOP/s ({result['isa']}; {min(result['peaks_gflop_per_s']):.0f} to "
        f"{max(result['peaks_gflop_per_s']):.0f} in {len(result['peaks_gflop_per_s'])} "
        "measurements). GFLOP count direct convolution.",
        f"- Engines take turns, {pace['rounds']} rounds with the order rotated, pinned to the "
        "cores they may use. Median of all calls ± half the distance of the quartiles; bold is the "
        "fastest. Compare inside one row only.",
        f"- † others used more than {NOISY_SHARE:.0%} of these cores meanwhile{disturbed(result)}. "
        "‡ the output differs by more than 1e-2.",
        "- f32 throughout, batch 1: fp16 and bf16 are off in ncnn and OpenVINO. The int8 models may "
        "use whatever int8 units there are (VNNI, AMX). The peers are ONNX Runtime, ncnn and "
        "OpenVINO, called from Python; the row of the empty call is what a call costs. They take "
        "channels first and convert inside the call, which tells in the small single layers.", ""]
    for kind in TITLES:
        lines += timings(result, kind)
    lines += tiles(result)
    lines += by_engine(
        result, "memory", "Memory", "Peak of a fresh process that loads the model and runs it "
        "once, 1 thread, MB; in brackets what it had before, Python and the library included.",
        lambda row: f"{row['peak_bytes'] / 1e6:.0f} ({row['idle_bytes'] / 1e6:.0f})")
    lines += by_engine(
        {"memory": [row for row in result["memory"] if "arena_bytes" in row]}, "memory", "Maps",
        "Of these, the arena of intermediate maps, known before anything runs, MB; and the time of "
        "a call, ms; and the largest arena of 2x2 tiles that run one after another.",
        lambda row: f"{row['arena_bytes'] / 1e6:.1f} ({number(row['ns']['median'] / 1e6)} ms), "
        f"tiles {row['tile_arena_bytes'] / 1e6:.1f}")
    lines += by_engine(
        result, "start", "Start", "From the file (in the system's cache) to the first answer in a "
        "fresh process, its library already loaded, 1 thread, ms.",
        lambda row: number(row["ns"]["median"] / 1e6))
    lines += refusals(result) + errors(result)
    return "\n".join(lines)


def plot(result: dict, path: pathlib.Path) -> None:
    """The speed of each engine relative to the fastest peer, a panel for each group and number of
    threads."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    panels = []
    for kind, title in TITLES.items():
        for threads in sorted({row["threads"] for row in result["rows"]}):
            rows = [row for row in result["rows"]
                    if row["kind"] == kind and row["threads"] == threads and fastest_peer(row)]
            if rows:
                panels.append((f"{title}, {threads} thread{'s' * (threads > 1)}", rows))
    if not panels:
        return
    names = [name for name in ALL if name in result["engines"]]
    colours = dict(zip(ALL, ["#d1495b", "#8d2f3d", "#2e86ab", "#3fa796", "#8e7dbe", "#a8a8a8",
                             "#d3c4a7"]))
    heights = [1.2 + 0.16 * (len(names) + 1) * len(rows) for _, rows in panels]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(10, sum(heights)), squeeze=False,
                                   gridspec_kw={"height_ratios": heights}, layout="constrained")
    for axis, (title, rows) in zip(axes[:, 0], panels):
        thick = 0.85 / len(names)
        for i, name in enumerate(names):
            bars = [(place + (i - (len(names) - 1) / 2) * thick,
                     fastest_peer(row) / median_ms(row["engines"][name]))
                    for place, row in enumerate(rows)
                    if "ns" in row["engines"].get(name, {})]
            # From 1 to the left or to the right, so that the length is the ratio.
            drawn = axis.barh([y for y, _ in bars], [speed - 1 for _, speed in bars], thick, left=1,
                              color=colours[name], label=name)
            if name.startswith(TILEHIVE):
                axis.bar_label(drawn, [f"{speed:.2f}" for _, speed in bars], padding=3, fontsize=7)
        axis.set_xscale("log")
        axis.axvline(1, color="black", linewidth=0.8)
        speeds = [fastest_peer(row) / median_ms(of) for row in rows
                  for of in row["engines"].values() if "ns" in of]
        low, high = min(0.5, min(speeds) / 1.2), max(2.0, max(speeds) * 1.3)
        ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8)
                 if low <= t <= high]
        axis.set_xlim(low, high)
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.set_xticks([], minor=True)
        axis.set_yticks(range(len(rows)), [row["model"] for row in rows])
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("speed relative to the fastest of ONNX Runtime, ncnn and OpenVINO "
                        "(right of 1 is faster)", fontsize=8)
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=len(names), fontsize=8,
                      frameon=False)
    figure.savefig(path, dpi=110)
