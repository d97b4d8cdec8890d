"""Wire: protocols between processes.

Here: the gRPC server on our own HTTP/2, the clients' channel, ttrpc, error codes, protobuf messages to plain values and
back, generated messages (pb/).
Not here: what a method does (cri/, admin/), the clients' typed calls (client/).
"""
