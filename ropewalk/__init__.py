"""Ropewalk: a Kubernetes container runtime that leads each pod to the isolation it needs.

Data flows down, values come back; a package imports only from lines below its own:

    cli
    daemon
    cri | admin
    pods | client
    runtimes | images | network
    storage > state > wire > linux
    spec
    steps | singleflight > errors | ids | version
"""
