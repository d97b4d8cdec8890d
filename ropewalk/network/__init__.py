"""Network: a pod's interface, its addresses and its host ports.

Here: the built-in bridge (rtnetlink, nftables) with address and host-port allocation, CNI plugins, the pool of ready
network namespaces.
Not here: the sockets we speak to the kernel with (linux/netlink.py, linux/nft.py), when a pod gets one (pods/).
"""
