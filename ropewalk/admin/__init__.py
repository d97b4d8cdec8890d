"""Admin: ropewalk.v1.Admin, what the CRI cannot say, on the CRI's socket.

Here: pull progress, runtime probes.
Not here: what kubelet calls (cri/), the command's client of this service (client/admin.py).
"""
