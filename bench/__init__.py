"""The project's figures: Ropewalk beside containerd on the same machine, in the same minutes, under the same client.

    measures > side > kubelet, accounting       one function per figure; a side is one product, started privately
    runner > statistics, bars > report          interleaved pairs; medians, intervals, ratios; what was promised

Here: what `./dev bench` measures and how. Not here: its command line (tools/bench.py), other runtimes' pods in tests.
"""
