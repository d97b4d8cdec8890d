"""critest's world: the images it wants under their canonical names, and what is expected of each of its specs.

Here: BusyBox from its Debian source, the images, the expectation by name. Not here: the run itself (tools/critest.py).
"""
