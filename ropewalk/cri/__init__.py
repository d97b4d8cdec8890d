"""CRI: the Kubernetes Container Runtime Interface, runtime.v1, as a thin facade.

Here: the two services, translation between protobuf and specs or records, filters, lists kept as bytes.
Not here: life cycles (pods/), pulling (images/), sockets, codes and logging of calls (wire/grpc.py).
"""
