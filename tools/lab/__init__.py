"""The lab VM: a Debian guest with systemd, cgroup v2 and AppArmor, whatever the machine that runs it has.

Here: its disk image, the machine itself, and the channel through which commands run in it.
Not here: what is tested in it (tests/vm), the verbs (tools/vm.py, tools/test.py).
"""
