"""Monitors: the small C process that owns a container's stdio, log and exit code, and outlives the daemon.

Here: the Monitor contract, and conmon behind it.
Not here: the runtime that the monitor starts (drivers/).
"""
