"""Pods: the life cycle of pod sandboxes and containers, the domain of this program.

Here: records and the facts that change them, the steps of RUN, CREATE, START, STOP and REMOVE, recovery after a
kill, exec, statistics, checkpoints, the files and namespaces a pod's containers share.
Not here: how a runtime is driven (runtimes/), how an address is made (network/), protobuf (cri/).
"""
