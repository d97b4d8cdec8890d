"""Drivers: each speaks one control interface, for every handler that has it.

Here: OCI command-line runtimes (oci.py), their bundles, their command, and running a command inside a container; gVisor
(runsc/); containerd's shims (shim/).
Not here: which runtime it is and what it can do (handlers/), who owns stdio and exit codes (monitors/).
"""
