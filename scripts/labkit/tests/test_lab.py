"""What of the lab can be wrong without a namespace: run by `scripts/lab test`."""

import tempfile
import tomllib
import unittest
from pathlib import Path

from bench import samples
from labkit import files, moved, report, scale, soak_felt, soak_page, speed, stats, swarm, twin
from labkit.host import ROOT, LabError


class Scale(unittest.TestCase):
    def test_the_least_dilation_fits_and_a_smaller_one_does_not(self):
        shares = [0.9, 0.3, 0.3, 0.3]
        k = scale.least_dilation(shares, 2)
        self.assertIsNotNone(scale.packed([s / k for s in shares], 2))
        self.assertIsNone(scale.packed([s / (k * 0.93) for s in shares], 2))
        self.assertEqual(scale.least_dilation([0.1, 0.1], 2), 1.0)

    def test_no_core_is_given_more_than_it_has(self):
        shares = [0.25, 0.2, 0.15, 0.15, 0.2, 0.1]
        used = [0.0, 0.0]
        for place, share in zip(scale.places(shares, 2, 1.0), shares):
            self.assertEqual(place.share, share)
            used[place.core] += share
        self.assertLessEqual(max(used), scale.CORE_SHARE_MAX + 1e-9)

    def test_too_many_devices_are_refused_with_the_dilation_that_helps(self):
        with self.assertRaises(LabError) as refused:
            scale.places([1.0, 1.0, 1.0], 2, 1.0)
        k = float(refused.exception.hint.split()[2])
        self.assertEqual(len(scale.places([1.0, 1.0, 1.0], 2, k)), 3)

    def test_a_quota_is_one_that_the_kernel_takes(self):
        for share in (0.6, 0.25, 0.1, 0.05, 0.012):
            quota, period = scale.quota(share)
            self.assertGreaterEqual(quota, scale.QUOTA_MIN_US)
            self.assertLessEqual(period, scale.PERIOD_MAX_US)
            self.assertAlmostEqual(quota / period, share, delta=share * 0.01)
        with self.assertRaises(LabError):
            scale.quota(0.001)

    def test_dilated_links_are_slower_by_as_much(self):
        self.assertAlmostEqual(scale.wire_bits_per_s(94.4, 1), 98.7e6, delta=0.1e6)
        self.assertAlmostEqual(scale.wire_bits_per_s(94.4, 4) * 4, scale.wire_bits_per_s(94.4, 1))


class Files(unittest.TestCase):
    def test_every_scenario_is_read_or_refused_with_a_reason(self):
        for path in (ROOT / "configs" / "scenarios").glob("*.toml"):
            try:
                read = files.scenario(path.stem)
            except LabError as error:
                self.assertRegex(str(error), "lab has no|200 at most|cannot be set")
                continue
            self.assertTrue(read.workers)

    def test_workers_are_named_as_the_simulator_names_them(self):
        _, workers = files.cluster("four-pi4-100m")
        self.assertEqual([w.name for w in workers], [f"pi-4b-fan-{i}" for i in range(1, 5)])
        _, workers = files.cluster("phones")
        self.assertEqual(workers[0].name, "phone-8gen2")

    def test_mistakes_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "s.toml"
            good = 'model = "zoo:unet"\ncluster = "phones"\n'
            for text, told in [
                (good + "framez = 3", "framez"),
                (good + '[[fault]]\nat_s = 1\nkind = "crash"\ndevice = 9', "4 workers"),
                (good + '[[fault]]\nat_s = 1\nkind = "slow-down"\ndevice = 1', "times"),
                (good + '[[fault]]\nat_s = 1\nkind = "hang"\ndevice = 1', "from outside"),
                ('cluster = "phones"', "model"), ('model = "x"\ncluster = "phonez"', "phonez"),
                ("model = ", "not sound"),
            ]:
                path.write_text(text)
                with self.assertRaises(LabError) as error:
                    files.scenario(str(path))
                self.assertIn(told, str(error.exception) + str(error.exception.hint))


class Moved(unittest.TestCase):
    def test_frames_count_by_the_last_plan_alone(self):
        lines = ["frame 0 done: 9 bytes of maps moved since the one before, 5 predicted",
                 "INFO frames get the new plan from now on: its weights are packed",
                 "frame 1 done: 5 bytes of maps moved since the one before, 5 predicted"]
        self.assertEqual(moved.changes(lines), [1])
        frames = [{"planned_bytes": 10 * (1 + (i > 11)), "moved_bytes": 10 * (1 + (i > 11)), "carried_bytes": 11,
                   "carried_packets": 1} for i in range(moved.FRAMES)]
        found = {"frames": frames, "changes": [12], "cell": "x", "model": "x", "devices": 2, "before_bytes": 1,
                 "measuring_bytes": 1, "counters": {}}
        row = moved.row(found)
        self.assertEqual((row["frames"], row["moved_bytes"], row["error"]), (moved.FRAMES - 14, 20, 0.0))


class Samples(unittest.TestCase):
    def test_a_sample_counts_for_who_asked_for_it(self):
        copy = "__memmove_avx512_unaligned_erms"
        for stack, expected in [
            ([copy, "kernels::gather::gather", "kernels::run::Run::new"], "copying maps"),
            ([copy, "kernels::conv::winograd::source"], samples.KERNELS),
            (["tcp_sendmsg", "__x64_sys_sendto", "net::session::run"], "network"),
            (["chacha20::backends::avx2::inner", "libp2p_noise::io::Output"], "encrypting"),
            (["protocol::worker::Worker::handle", "sim::cluster::Cluster::step"], "planning"),
            (["protocol::worker::Worker::handle", "worker::drive::Driver::handle"], "scheduling"),
            (["who knows"], samples.OTHER),
        ]:
            self.assertEqual(samples.class_of("tokio-rt-worker", stack)[0], expected, stack)
        self.assertEqual(samples.class_of("compute", ["[unknown]"])[0], samples.KERNELS)


class Twin(unittest.TestCase):
    def test_times_count_from_the_first_frame_after_the_warm_up(self):
        scenario = files.scenario("one-slows-down")
        self.assertEqual(twin.dilated(2.5, scenario, 2.0, None), 3.0)
        self.assertEqual(twin.dilated(2.5, scenario, 2.0, 7.0), 8.0)
        self.assertEqual(twin.dilated(0.0, scenario, 2.0, 7.0), 0.0)

    def test_the_twin_is_sound_and_has_the_rates_of_the_lab(self):
        scenario = files.scenario("one-slows-down")
        rates = {"winograd_gmac_per_s": 80.0, "linear_gmac_per_s": 4.0}
        places = scale.places([0.1] * 4, 2, 1.0)
        with tempfile.TemporaryDirectory() as folder:
            twin.write(Path(folder), scenario, places, rates, 2.0, 1)
            device = tomllib.loads((Path(folder) / "device-2.toml").read_text())
            link = tomllib.loads((Path(folder) / "link-2.toml").read_text())
            written = tomllib.loads((Path(folder) / "scenario.toml").read_text())
        self.assertAlmostEqual(device["rates"]["winograd_gmac_per_s"], 8.0)
        self.assertAlmostEqual(link["send_mbit_per_s"], scenario.workers[2].link.send_mbit_per_s / 2)
        self.assertEqual((written["frames"], written["fault"][0]["times"]), (2, 4))


class Numbers(unittest.TestCase):
    def test_kendalls_tau(self):
        self.assertEqual(stats.kendall_tau([(1, 10), (2, 20), (3, 30)]), 1.0)
        self.assertEqual(stats.kendall_tau([(1, 30), (2, 20), (3, 10)]), -1.0)
        self.assertAlmostEqual(stats.kendall_tau([(1, 1), (2, 3), (3, 2)]), 1 / 3)
        # The two that are as good as equal may come in any order.
        self.assertGreater(stats.kendall_tau([(100, 5), (101, 4), (200, 9)], tie=0.02), 0.8)

    def test_errors_and_regret(self):
        told = stats.errors([(100, 110), (100, 80)])
        self.assertAlmostEqual(told["mean"], 0.15)
        self.assertAlmostEqual(told["worst"], 0.2)
        self.assertAlmostEqual(told["bias"], -0.05)
        self.assertAlmostEqual(stats.regret([(100, 50), (80, 60)]), 0.25)

    def test_percentiles_are_those_of_the_simulator(self):
        told = report.percentiles([float(i) for i in range(1, 101)])
        self.assertEqual((told["p50"], told["p90"], told["p99"], told["max"]), (50, 90, 99, 100))
        self.assertEqual(report.percentiles([7.0])["p50"], 7.0)

    def test_arrays_are_those_of_numpy(self):
        data = swarm.npy([1, 2, 5])
        head = int.from_bytes(data[8:10], "little")
        self.assertEqual((10 + head) % 64, 0)
        self.assertEqual(len(data), 10 + head + 40)
        self.assertIn(b"(1, 2, 5)", data)

    def test_rates_are_told_in_the_order_of_the_file(self):
        self.assertEqual(speed.rates_json({"a": 2.0, "b": 0.5}), "[2000000000, 500000000]")


class Soak(unittest.TestCase):
    def test_a_wait_belongs_to_what_happened_last(self):
        answers = [(0, 0.0), (1, 1.0), (2, 6.0), (3, 7.0), (4, 9.0)]
        deeds = [{"at_s": 2.0, "what": "crashes"}, {"at_s": 8.0, "what": "returns"}]
        waits = soak_page.waits_by_deed(answers, deeds)
        self.assertEqual(waits, {"nothing yet": [1, 1.0], "crashes": [1, 5.0], "returns": [1, 2.0]})

    def test_answers_behind_their_turn(self):
        # Frames 0 and 1 were due before the first answer, which waited for weights for 2 s.
        answers = [(0, 0.0), (1, 0.1), (2, 0.2), (3, 1.0), (4, 2.5), (5, 3.0)]
        self.assertEqual(soak_page.behind(answers, 1.0), [0.2, 0.0, 0.5, 0.0])

    def test_what_leaves_no_trace_is_told(self):
        said = ("INFO w0 joined: pi-1 (1 threads)\nINFO w1 joined: pi-10 (1 threads)\nINFO w0 left: it went away\n"
                "INFO w1 left: silent for 4 s\nINFO w0 joined: pi-1 (1 threads)\nINFO w0 left: it went away\n")
        leaving, full = soak_felt.losses(said, "pi-1"), soak_felt.losses(said, "pi-10")
        self.assertEqual((len(leaving), full), (2, ["silent for 4 s"]))
        deeds = [{"what": soak_felt.LEAVES}, {"what": soak_felt.CRASHES}, {"what": soak_felt.CABLE}]
        told = soak_felt.unfelt(soak_felt.signs(deeds, soak_felt.Counter(), leaving, full, 3))
        self.assertEqual(told, [])
        told = soak_felt.unfelt(soak_felt.signs(deeds, soak_felt.Counter(), leaving, [], 0))
        self.assertEqual(len(told), 2, told)

    def test_a_device_with_little_memory_takes_less_than_any_other(self):
        samples = [{"processes": {"coordinator": {"rss_kb": 9_000}, "little": {"rss_kb": 50_000 + more},
                                  "a": {"rss_kb": 90_000 - more}, "b": {"rss_kb": 70_000}}} for more in (0, 5_000)]
        self.assertEqual(soak_felt.spared_mb(samples, "little"), 15)
        self.assertEqual(soak_felt.spared_mb(samples, "a"), 0)

    def test_numbers_of_a_worker(self):
        page = "# TYPE tilehive_worker_tasks counter\ntilehive_worker_tasks_total 12\ntilehive_worker_peers 2.5e0\n"
        self.assertEqual(soak_felt.parsed(page), {"tasks_total": 12.0, "peers": 2.5})

    def test_processor_time_of_a_process_that_began_anew_counts_from_nothing(self):
        def row(at_s, pid, cpu_s):
            return {"at_s": at_s, "processes": {"a": {"pid": pid, "cpu_s": cpu_s}}}
        self.assertEqual(soak_page.cores([row(0, 1, 5.0), row(10, 1, 7.0), row(20, 2, 2.0)]), 0.2)


if __name__ == "__main__":
    unittest.main()
