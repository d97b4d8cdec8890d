"""Storage: content by digest, and layers that become a root file system.

Here: the content store, the Snapshotter contract and its implementations, leases, garbage collection, disk usage.
Not here: pulling (images/), mounting for a container (runtimes/drivers/).
"""
