"""Numbers about numbers: errors, rank correlation, medians."""

from statistics import median


def relative(real, predicted):
    """How far a prediction is from what was measured, signed: above zero it promised too little time."""
    return predicted / real - 1.0


def errors(pairs):
    """Mean, median, worst and signed mean of the relative errors of (real, predicted) pairs."""
    found = [relative(real, predicted) for real, predicted in pairs]
    if not found:
        return {"count": 0, "mean": 0.0, "median": 0.0, "worst": 0.0, "bias": 0.0}
    return {"count": len(found), "mean": sum(map(abs, found)) / len(found),
            "median": median(map(abs, found)), "worst": max(map(abs, found)), "bias": sum(found) / len(found)}


def kendall_tau(pairs, tie=0.0):
    """Kendall's tau-b of (real, predicted) pairs; times that differ by less than `tie` of the larger
    are one and the same."""
    agree = disagree = ties_a = ties_b = 0
    for i, (a, b) in enumerate(pairs):
        for c, d in pairs[:i]:
            one, other = order(a, c, tie), order(b, d, tie)
            if one == 0 and other == 0:
                continue
            if one == 0:
                ties_a += 1
            elif other == 0:
                ties_b += 1
            elif one == other:
                agree += 1
            else:
                disagree += 1
    across = ((agree + disagree + ties_a) * (agree + disagree + ties_b)) ** 0.5
    return (agree - disagree) / across if across else 1.0


def order(a, b, tie):
    """-1, 0 or 1."""
    if abs(a - b) <= tie * max(abs(a), abs(b)):
        return 0
    return 1 if a > b else -1


def regret(plans):
    """How much longer the plan takes that was predicted to be fastest than the fastest one, from
    (real, predicted) pairs."""
    chosen = min(plans, key=lambda pair: pair[1])
    return chosen[0] / min(real for real, _ in plans) - 1.0


def middle(values):
    """The median; zero of nothing."""
    return median(values) if values else 0.0
