"""Pictures of results, where matplotlib is there."""

from . import host


def pyplot():
    """Matplotlib without a screen; none where it is missing."""
    try:
        import matplotlib
    except ImportError:
        host.say("note: no picture is drawn, since matplotlib is missing")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    return plt


def scatter(rows, path):
    """Real against simulated times of all scenarios."""
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(figsize=(6, 6))
    for label, marker, chosen in [
            ("one frame after another", "o",
             [r for r in rows if not r["is_stream"] and not r["has_event"]]),
            ("streams", "x", [r for r in rows if r["is_stream"]]),
            ("with an event", "^", [r for r in rows if r["has_event"]])]:
        axes.plot([r["real_ms"] for r in chosen], [r["simulated_ms"] for r in chosen], marker,
                  label=label, alpha=0.7)
    ends = [min(r["real_ms"] for r in rows) * 0.8, max(r["real_ms"] for r in rows) * 1.25]
    axes.plot(ends, ends, color="grey", linewidth=1)
    for part in (0.75, 1.25):
        axes.plot(ends, [part * e for e in ends], color="grey", linewidth=0.5, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="real, ms a frame", ylabel="simulated, ms a frame",
             xlim=ends, ylim=ends)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bars(series, path, ylabel):
    """Curves over the number of devices: {label: [(x, y), ...]}."""
    plt = pyplot()
    if plt is None or not series:
        return
    figure, axes = plt.subplots(figsize=(7, 5))
    for label, points in series.items():
        axes.plot(*zip(*sorted(points)), marker="o", label=label)
    top = max(x for points in series.values() for x, _ in points)
    axes.plot([1, top], [1, top], color="grey", linewidth=0.7, linestyle=":")
    axes.set(xlabel="devices", ylabel=ylabel)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
