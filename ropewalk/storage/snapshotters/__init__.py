"""The snapshotters of this build, one file each; its name is the file's.

Here: overlay, native, and what both stand on (directories with a number each, rows before directories).
Not here: the contract (storage/snapshotter.py), unpacking layers (images/worker/).
"""
