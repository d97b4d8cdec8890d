"""The pull worker: a process of its own that talks to registries, digests, inflates and unpacks.

Here: everything that burns CPU or may block on a registry. Imports no asyncio, gRPC or SQLite; nobody imports it.
Not here: decisions (images/pull.py) and records (images/store.py); a worker holds no state between jobs.
"""
