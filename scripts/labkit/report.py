"""What a run says of itself: the names of the simulator's report, in undilated time."""

from statistics import median


def spans(trace):
    """The spans of a trace, as the programs wrote them."""
    return [event["args"]["span"] if "span" in event["args"] else event["args"]
            for event in trace["traceEvents"] if event["ph"] == "X"]


def devices(trace):
    """Names by index."""
    return {event["pid"] - 1: event["args"]["name"] for event in trace["traceEvents"]
            if event["ph"] == "M" and event["name"] == "process_name"}


def frames_of(trace):
    """When each frame's first input was sent and its last result had come."""
    frames = {}
    for span in spans(trace):
        if span.get("task") is None:
            continue
        start, end = frames.get(span["task"]["frame"], (span["start_ns"], span["end_ns"]))
        frames[span["task"]["frame"]] = (min(start, span["start_ns"]), max(end, span["end_ns"]))
    return frames


def counted(trace, warm):
    """The frames after the warm-up, in order: (begins, ends) in nanoseconds."""
    return [frame for _, frame in sorted(frames_of(trace).items())][warm:]


def makespans_ms(trace, warm, dilation):
    """The makespan of each frame after the warm-up, undilated."""
    return [(end - start) / 1e6 / dilation for start, end in counted(trace, warm)]


def frames_per_s(trace, warm, dilation):
    """Frames a second, first scatter to last gather of those that count."""
    frames = counted(trace, warm)
    took_ns = max(end for _, end in frames) - min(start for start, _ in frames)
    return len(frames) / (took_ns / 1e9) * dilation


def percentiles(values):
    """As the simulator takes them: the value at the rank, never between two."""
    ordered = sorted(values)

    def at(per_cent):
        rank = max(1, -(-len(ordered) * per_cent // 100)) - 1
        return ordered[min(rank, len(ordered) - 1)] if ordered else 0.0
    return {"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)}


def device_reports(scenario, outcome, dilation):
    """A row for each device, under the names of the simulator's."""
    names = devices(outcome.trace)
    all_spans = spans(outcome.trace)
    ends = max((s["end_ns"] for s in all_spans), default=0)
    rows = []
    for i, worker in enumerate(scenario.workers):
        own = [s for s in all_spans if names.get(s["device"]) == worker.name]
        computed = [s for s in own if s["activity"] == "compute"]
        busy_ns = sum(s["end_ns"] - s["start_ns"] for s in computed) / dilation
        there_ns = max(1.0, ends / dilation)
        measured = outcome.workers[i]
        received, sent = measured["moved"]
        row = {
            "name": worker.name, "tasks": len(computed),
            "stolen": sum(s["stolen"] for s in computed), "busy_ns": round(busy_ns),
            "utilisation": busy_ns / there_ns, "received_bytes": received, "sent_bytes": sent,
            "peak_bytes": measured["peak_bytes"], "peak_c": None,
        }
        power = worker.device.get("power")
        if power:
            marginal = busy_ns / 1e9 * (power["active_w"] - power["idle_w"])
            row["energy"] = {"total_j": there_ns / 1e9 * power["idle_w"] + marginal,
                             "marginal_j": marginal}
        rows.append(row)
    return rows


def build(scenario, outcome, simulated, dilation, warm):
    """The report of a run, with what the simulator says of its twin beside it."""
    real = outcome.report
    times = makespans_ms(outcome.trace, warm, dilation)
    rows = device_reports(scenario, outcome, dilation)
    all_spans = spans(outcome.trace)
    frames = max(1, len(times))
    bound_ms = simulated["report"]["bound_ms"] / dilation
    every = frames + warm
    energy = [row["energy"] for row in rows if "energy" in row]
    made = sum(1 for s in all_spans if s["activity"] == "compute")
    return {
        "scenario": scenario.path, "model": scenario.model, "strategy": scenario.strategy,
        "seed": scenario.seed, "frames": len(times), "failures": [],
        "makespan_ms": percentiles(times)["p50"], "latency_ms": percentiles(times),
        "frames_per_s": frames_per_s(outcome.trace, warm, dilation),
        "bound_ms": bound_ms,
        "bound_any_plan_ms": simulated["report"]["bound_any_plan_ms"] / dilation,
        "gap": median(times) / max(bound_ms, 1e-9) - 1.0,
        "redundancy": real["redundancy"],
        "traffic": {
            "scatter_bytes": sum(s["bytes"] for s in all_spans if s["activity"] == "receive"),
            "gather_bytes": sum(s["bytes"] for s in all_spans if s["activity"] == "send"),
            "handover_bytes": real["counters"]["stolen_bytes"],
            "exchange_bytes": real["exchanged_bytes"],
            "weight_bytes": sum(w["weight_bytes"] for w in real["workers"]),
        },
        "energy_j_per_frame": sum(e["total_j"] for e in energy) / every,
        "marginal_j_per_frame": sum(e["marginal_j"] for e in energy) / every,
        "counters": real["counters"], "reassigned": real["reassigned"], "devices": rows,
        "tasks_computed": made, "dilation": dilation, "warm_up_frames": warm,
        "makespans_ms": times, "notes": outcome.notes, "marks": outcome.marks,
        "predicted_makespan_ms": real["predicted_makespan_ms"] / dilation,
        "simulated": {
            "makespan_ms": percentiles(simulated["makespans_ms"])["p50"],
            "makespans_ms": simulated["makespans_ms"],
            "frames_per_s": simulated["frames_per_s"],
            "traffic": simulated["report"]["traffic"],
            "redundancy": simulated["report"]["redundancy"],
        },
    }


def undilated(trace, dilation):
    """A trace whose times are those of the scenario's world."""
    def span(args):
        return {**args, **{key: round(args[key] / dilation)
                           for key in ("start_ns", "end_ns", "at_ns") if key in args}}
    events = []
    for event in trace["traceEvents"]:
        event = dict(event)
        for key in ("ts", "dur"):
            if key in event:
                event[key] = event[key] / dilation
        if event["ph"] in "Xi":
            event["args"] = span(event["args"])
        events.append(event)
    return {**trace, "traceEvents": events}


def text(report):
    """The report for people."""
    sim = report["simulated"]
    difference = report["makespan_ms"] / sim["makespan_ms"] - 1 if sim["makespan_ms"] else 0.0
    traffic = report["traffic"]
    lines = [
        f"frames        {report['frames']} of {report['model']} ({report['warm_up_frames']} to warm "
        f"up before), time dilated {report['dilation']:g} times",
        f"plan          {report['strategy']}, redundancy {report['redundancy']:.3f}",
        f"makespan      {report['makespan_ms']:.1f} ms a frame at the median "
        f"({min(report['makespans_ms']):.1f} to {max(report['makespans_ms']):.1f})",
        f"simulated     {sim['makespan_ms']:.1f} ms: reality takes {100 * difference:+.1f} %",
        f"throughput    {report['frames_per_s']:.3f} frames/s (simulated "
        f"{sim['frames_per_s']:.3f})",
        f"lower bound   {report['bound_ms']:.1f} ms for this plan, "
        f"{report['bound_any_plan_ms']:.1f} for any",
        f"sent          {traffic['scatter_bytes'] / 1e6:.2f} MB scattered, "
        f"{traffic['gather_bytes'] / 1e6:.2f} gathered, {traffic['exchange_bytes'] / 1e6:.2f} "
        f"exchanged, {traffic['weight_bytes'] / 1e6:.2f} weights (warm-up included)",
        f"reassigned    {report['reassigned']} tasks", "",
        f"{'device':<18}{'tasks':>6}{'stolen':>7}{'busy ms':>10}{'use':>6}{'received':>11}"
        f"{'sent':>11}{'peak RSS':>10}",
    ]
    for row in report["devices"]:
        lines.append(
            f"{row['name']:<18}{row['tasks']:>6}{row['stolen']:>7}{row['busy_ns'] / 1e6:>10.0f}"
            f"{100 * row['utilisation']:>5.0f}%{row['received_bytes'] / 1e6:>8.1f} MB"
            f"{row['sent_bytes'] / 1e6:>8.1f} MB{row['peak_bytes'] / 1e6:>7.0f} MB")
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)
