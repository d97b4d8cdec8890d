"""Daemon: start-up, configuration and wiring of everything into one process.

Here: the configuration file, what is built from it and in which order, signals, log format.
Not here: what the parts do; their settings are declared where they are used.
"""
