"""Monitors: the small C process that owns a container's stdio, log and exit code, and outlives the daemon.

Here: the Monitor contract, ropewalk-monitor (own.py, csrc/monitor.c) and conmon behind it, and attaching to either.
Not here: the runtime that the monitor starts (drivers/).
"""
