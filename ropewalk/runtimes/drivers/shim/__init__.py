"""The driver of containerd's shims (shim v2): any program that serves containerd.task over ttrpc.

    binary.py   the program: its verbs `start` and `delete`, in both dialects
    task.py     what is asked of a running one: tasks, sandboxes
    events.py   what it tells unasked: ends, exhausted memory
    options.py  the values it takes as Any
    stdio.py    fifos and URIs for the streams of a container
    metrics.py  its counters
    record.py   what a bundle keeps of it for the next daemon

Here: everything of shims but when and in what order (driver.py beside this, a Handler).
Not here: frames and connections (wire/ttrpc.py), the bundle itself (drivers/bundle.py).
"""
