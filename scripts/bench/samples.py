"""Where processor time went: samples of perf with their stacks, each put into one class.

A sample belongs to the class of the innermost frame of its stack that any rule knows. So copying by `memcpy` counts
for who copies, and what the kernel does for a write to a socket for the network, whoever wrote. Only planning is known
by any frame: it rehearses, and in a rehearsal runs the scheduler.
"""

import re
import subprocess
from collections import Counter

from labkit.host import LabError

WAITING = "waiting"
KERNELS = "kernels"
PACKING = "packing weights"
OTHER = "other"
# Computing, and what is done once for a plan. All else but waiting is what sharing the work costs.
USEFUL = (KERNELS, PACKING)
# In the order of rules: of one frame the first that fits counts.
RULES = [
    (WAITING, r"kernels::team::.*(wait|serve|spin)|kernels::team::Team|sched_yield"),
    ("compressing", r"kernels::wire::|outbox::encoded"),
    (PACKING, r"kernels::pack\b|kernels::pack::|kernels::conv::filters|kernels::quant::pack|blake3|blobs::|"
              r"worker::compute::Packing|PackedModel|WeightStore"),
    ("copying maps", r"kernels::gather::|kernels::piece::|kernels::view::Target::copy.*finish|kernels::run::Run::finish|"
                     r"store::FrameMaps|store::Arrived|net::payload|Payload|PieceBytes|BulkWriter|write_chunk|"
                     r"round_outputs|inputs_for"),
    (KERNELS, r"kernels::(simd|conv|pool|pointwise|linear|math|quant|reduce|general|spatial|layer|view|arena|run)\b"),
    ("serialising", r"postcard|serde"),
    ("encrypting", r"chacha20|poly1305|snow::|ring_core|ring::|libp2p_noise|x25519|ed25519|sha2::|hmac"),
    ("planning", r"StageGeometry|tiling::|protocol::survey"),
    ("scheduling", r"protocol::|coordinator::drive|worker::drive|coordinator::trace|kernels::engine|kernels::cache"),
    ("telling", r"tracing|indicatif|serde_json|coordinator::commands|coordinator::input|worker::health|prometheus"),
    ("network", r"net::|libp2p|yamux|multistream|multiaddr|futures|tokio|mio::|asynchronous_codec|quick_protobuf|"
                r"tcp_|inet_|sock_|sk_|ip_|__dev_|net_rx|skb|ep_poll|epoll|eventfd|do_sys_poll|"
                r"__x64_sys_(send|recv|write|read|writev|readv)"),
    # What is left of the kernel when nobody above is known: faults of memory, switches between threads.
    (WAITING, r"futex|schedule\b|pick_next|finish_task_switch|try_to_wake"),
]
RULES = [(name, re.compile(rule)) for name, rule in RULES]
PLANNING = re.compile(r"\b(sim|planner)::|planning::<impl coordinator")
CLASSES = list(dict.fromkeys([KERNELS, PACKING, *(name for name, _ in RULES), OTHER]))
# By thread, where no frame is known: stacks end where the unwinder does not get on.
THREADS = {"compute": KERNELS, "encode": "compressing"}


def record(pids, seconds, hertz, into):
    """Samples these processes."""
    told = subprocess.run(
        ["perf", "record", "-e", "cpu-clock", "-F", str(hertz), "--call-graph", "dwarf,32768", "-o", str(into),
         "-p", ",".join(map(str, pids)), "--", "sleep", str(seconds)], capture_output=True, text=True)
    if told.returncode != 0:
        raise LabError(f"perf failed: {told.stderr.strip()}",
                       "it needs root, or a lower /proc/sys/kernel/perf_event_paranoid")


def read(path):
    """The samples of a file: (process, thread name, stack from the innermost frame)."""
    text = subprocess.run(["perf", "script", "--no-inline", "-i", str(path), "-F", "comm,pid,tid,ip,sym"],
                          capture_output=True, text=True, check=True).stdout
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        head = re.match(r"(.*\S)\s+(\d+)/(\d+)", lines[0]) if lines else None
        if head:
            frames = [line.strip().partition(" ")[2] for line in lines[1:]]
            yield int(head[2]), head[1].strip(), frames


def class_of(thread, frames):
    """The class of a sample, and the frame that says so."""
    planning = next((frame for frame in frames if PLANNING.search(frame)), None)
    if planning:
        return "planning", planning
    for frame in frames:
        for name, rule in RULES:
            if rule.search(frame):
                return name, frame
    return THREADS.get(thread, OTHER), frames[0] if frames else "?"


def count(samples, roles):
    """Samples by role and class; and by class who they are, innermost frame and the one that decided."""
    by_role, whose = Counter(), {}
    for pid, thread, frames in samples:
        name, frame = class_of(thread, frames)
        by_role[roles.get(pid, "worker"), name] += 1
        inner = frames[0] if frames else "?"
        whose.setdefault(name, Counter())[shown(frame) if inner == frame else f"{shown(inner)} in {shown(frame)}"] += 1
    return by_role, whose


def shown(frame):
    """A name without its types, short enough to read."""
    name = re.sub(r"<impl [^>]*>::|\{\{closure\}\}(::)?", "", frame).strip(": ")
    return name if len(name) <= 70 else f"{name[:67]}..."
