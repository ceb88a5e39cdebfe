"""Links: each device is a network namespace with a cable to one bridge, shaped at both ends.

What goes through the air shares one class of one queue: both directions and all stations of an access
point, so that from station to station is paid for twice.
"""

from .host import PREFIX, LabError, call, has_air, works
from .scale import wire_bits_per_s

# A larger bucket lets short transfers pass for nothing.
BURST_BYTES = 5_000
# A gigabit empties that bucket faster than timers fire.
BURST_S = 400e-6
# What a queue may hold before it drops, in time.
QUEUE_MS = 50
SUBNET = "10.77.0"


class Network:
    """The namespaces and cables of one lab; `pid` makes their names unique."""

    def __init__(self, pid, dilation):
        self.pid = pid
        self.dilation = dilation
        self.switch = f"{PREFIX}-{pid}-sw"
        self.namespaces = []
        self.airs = {}
        self.notes = []

    def start(self):
        """Makes the bridge."""
        self._namespace(self.switch)
        call("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        call("ip", "-n", self.switch, "link", "set", "br0", "up")

    def _namespace(self, name):
        # Remembered first, so that one that is half made is cleaned up as well.
        self.namespaces.append(name)
        call("ip", "netns", "add", name)
        call("ip", "-n", name, "link", "set", "lo", "up")

    def namespace(self, end):
        """The namespace of the coordinator (`c`) or of a worker by its index."""
        return f"{PREFIX}-{self.pid}-{end}"

    @staticmethod
    def address(end):
        """The address of an end."""
        return f"{SUBNET}.{1 if end == 'c' else 10 + end}"

    def attach(self, end, link, access_point=0):
        """Connects an end by its link."""
        name, port = self.namespace(end), f"p{end}"
        self._namespace(name)
        call("ip", "link", "add", "eth0", "netns", name, "type", "veth",
             "peer", "name", port, "netns", self.switch)
        call("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        address = self.address(end)
        call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        call("ip", "-n", name, "link", "set", "eth0", "up")
        # BBR, where it is the default, takes its own measurements for the link; a route may choose.
        if not works("ip", "-n", name, "route", "change", f"{SUBNET}.0/24", "dev", "eth0",
                     "src", address, "congctl", "cubic"):
            self.notes.append("cubic congestion control could not be set: BBR or another is used")
        match link.medium:
            case "wire":
                self._shape(name, "eth0", link.send_mbit_per_s)
                self._shape(self.switch, port, link.receive_mbit_per_s)
            case "half-duplex-wire":
                self._through_air(f"bus{end}", port, link)
            case "air":
                self._through_air(f"air{access_point}", port, link)

    def _rate(self, mbit_per_s):
        return round(wire_bits_per_s(mbit_per_s, self.dilation))

    def _shape(self, namespace, device, mbit_per_s):
        rate = self._rate(mbit_per_s)
        burst = max(BURST_BYTES, round(rate / 8 * BURST_S))
        call("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf",
             "rate", f"{rate}bit", "burst", burst, "latency", f"{QUEUE_MS}ms")

    def _through_air(self, air, port, link):
        mbit = max(link.send_mbit_per_s, link.receive_mbit_per_s)
        if air not in self.airs:
            self._make_air(air, mbit)
        if (mbit != self.airs[air] or link.send_mbit_per_s != link.receive_mbit_per_s):
            raise LabError(
                f"stations of one access point have different rates ({mbit} and "
                f"{self.airs[air]} Mbit/s, or one of its own each way), and one shaper cannot "
                "share time among these",
                "give them access points of their own (`access_point`), or simulate it", status=2)
        call("tc", "-n", self.switch, "qdisc", "add", "dev", port, "clsact")
        for side in ("ingress", "egress"):
            call("tc", "-n", self.switch, "filter", "add", "dev", port, side, "protocol", "all",
                 "u32", "match", "u32", "0", "0",
                 "action", "mirred", "egress", "redirect", "dev", air)

    def _make_air(self, air, mbit):
        if not has_air():
            raise LabError("this kernel cannot emulate Wi-Fi: ifb or htb is missing",
                           "modprobe ifb sch_htb cls_u32 act_mirred", status=2)
        self.airs[air] = mbit
        rate = self._rate(mbit)
        inside = ("-n", self.switch)
        call("ip", *inside, "link", "add", air, "type", "ifb")
        call("ip", *inside, "link", "set", air, "up")
        call("tc", *inside, "qdisc", "add", "dev", air, "root", "handle", "1:", "htb", "default", "1")
        call("tc", *inside, "class", "add", "dev", air, "parent", "1:", "classid", "1:1", "htb",
             "rate", f"{rate}bit", "ceil", f"{rate}bit", "burst", BURST_BYTES, "cburst", BURST_BYTES)
        queue = max(64_000, round(rate / 8 * QUEUE_MS / 1e3))
        call("tc", *inside, "qdisc", "add", "dev", air, "parent", "1:1", "bfifo", "limit", queue)

    def set_carrier(self, end, up):
        """Pulls a cable, or puts it back."""
        call("ip", "-n", self.switch, "link", "set", f"p{end}", "up" if up else "down")

    def set_path(self, a, b, open_):
        """Loses what two workers send each other, or carries it again."""
        for here, there in ((a, b), (b, a)):
            verb = "del" if open_ else "add"
            call("ip", "-n", self.namespace(here), "route", verb, "blackhole",
                 f"{self.address(there)}/32")

    def send_whole_packets(self):
        """Has every packet counted with a header of its own, as it is on a cable: otherwise several leave an
        end as one, which is cut up behind the counters."""
        for name in self.namespaces:
            if name != self.switch:
                call("ip", "-n", name, "link", "set", "eth0", "gso_max_segs", "1")

    def moved(self, end):
        """Bytes to and from an end, headers of all layers included."""
        port = call("ip", "netns", "exec", self.namespace(end), "cat",
                    "/sys/class/net/eth0/statistics/rx_bytes",
                    "/sys/class/net/eth0/statistics/tx_bytes")
        received, sent = port.split()
        return int(received), int(sent)

    def stop(self):
        """Removes everything; what is missing already is no mistake here."""
        for name in self.namespaces:
            works("ip", "netns", "del", name)
