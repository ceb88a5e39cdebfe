"""Writes docs/results/cost.md from cost.json: the errors as a table, the worst with what they are made of."""

import json
import platform
import sys

# What is behind a large error, by the class that takes most of the predicted time.
WHY = {
    "winograd": "products with weights that fit the near cache in the probes and not here, or here alone",
    "transforms": "blocks of large maps come from memory; those of the probes stay in the cache",
    "depthwise": "depends on what of its input is in the cache",
    "element-wise": "windows of other sizes and copies by channel, which one rate by bytes averages",
    "linear": "weights that the cache of this machine holds between frames, or not",
    "maps": "what is written stays in the cache of small networks and leaves that of large ones",
    "conv1x1": "few channels or rows: the micro-kernel is not full",
    "conv3x3": "few channels, whose chains are short",
    "conv": "strides and kernels that no probe has",
    "weights": "weights of small networks stay in the cache between frames",
}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        report = json.load(file)
    cases = report["cases"]
    worst = sorted(cases, key=lambda case: -abs(case["error"]))[:5]
    within = sum(abs(case["error"]) <= 0.15 for case in cases)
    print("# Predicted and measured times of one device\n")
    print(
        f"Mean error {100 * report['mean_error']:.1f} %, worst {100 * report['worst_error']:.1f} %, "
        f"{within} of {len(cases)} cases within 15 %: {report['threads']} thread(s) of "
        f"{platform.processor() or platform.machine()}, median over {report['rounds']} rounds."
    )
    print(
        "\nMade by `scripts/bench-cost`. In each round a worker process measures itself anew for each "
        "network\nand then computes it; predicted are the rates it measured times the work of the plan's tiles, "
        "measured is the\ntime that its computing thread had a core for them. No rate was fitted to any of these "
        "networks.\n"
    )
    print("| the five worst | error | predicted to take most | likely because of |\n|---|---|---|---|")
    for case in worst:
        shares = ", ".join(
            f"{part['class']} {100 * part['share']:.0f} %" for part in case["largest_classes"]
        )
        why = WHY.get(case["largest_classes"][0]["class"], "")
        print(f"| {case['case']} | {100 * case['error']:+.0f} % | {shares} | {why} |")
    print("\n| case | predicted | measured | error |\n|---|---|---|---|")
    for case in cases:
        print(
            f"| {case['case']} | {case['predicted_ms']:.1f} ms | {case['measured_ms']:.1f} ms "
            f"| {100 * case['error']:+.1f} % |"
        )


if __name__ == "__main__":
    main()
