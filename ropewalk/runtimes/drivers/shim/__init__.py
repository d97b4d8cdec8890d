"""The driver of containerd's shims (shim v2): any program that serves containerd.task over ttrpc.

    binary.py   the program: its verbs `start` and `delete`, in both dialects
    task.py     what is asked of a running one: tasks, sandboxes
    events.py   what it tells unasked: ends, exhausted memory
    options.py  the values it takes as Any
    stdio.py    fifos and URIs for the streams of a container
    metrics.py  its counters
    record.py   what a bundle keeps of it for the next daemon
    advice.py   what to do about what it says

    connections.py  to running shims, and what they say in their log
    inside.py       commands in a container; streams.py: with their streams in the caller's hands
    exits.py        how a container ends, and what the next daemon finds of one
    removal.py      undoing, from an id alone
    driver.py       when and in what order: the Handler

Not here: frames and connections (wire/ttrpc.py), the bundle itself (drivers/bundle.py).
"""
