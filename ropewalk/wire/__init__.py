"""Wire: protocols between processes.

Here: the gRPC server and channel, error codes, protobuf messages to plain values and back, generated messages (pb/).
Not here: what a method does (cri/, admin/), the clients' typed calls (client/).
"""
