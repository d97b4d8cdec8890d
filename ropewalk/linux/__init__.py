"""The kernel: one thin function per system call, and the few mechanisms made of them.

Here: mounts, namespaces, cgroups, processes, safe paths, workers that may be abandoned, what this kernel offers.
Not here: when any of it happens (pods/, runtimes/), what a network looks like (network/).
"""
