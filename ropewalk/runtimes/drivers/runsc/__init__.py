"""gVisor: one Sentry per pod, spoken to by the runsc program.

Here: pods and containers (driver.py), what runsc is given of a runtime spec (spec.py), commands inside (inside.py), the
Sentry's control socket (sentry.py), and which platform runs on this node (platforms.py).
Not here: configuration and capabilities (handlers/runsc.py), stdio and exit codes (monitors/).
"""
