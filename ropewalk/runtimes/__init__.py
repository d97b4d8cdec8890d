"""Runtimes: from a container spec to processes that run.

Here: the OCI runtime spec (oci/, pure), the Handler contract and handlers, the drivers that speak a runtime's
control interface, the monitors that own a container's stdio, log and exit code.
Not here: when to create, stop or remove (pods/), where layers come from (storage/), addresses (network/).
"""
