"""What callers ask for: pods, containers and images as plain values with the CRI's field names.

Here: frozen structs that requests are translated into, and that rows and rules read.
Not here: what became of a request (pods/records.py), protobuf (cri/translate.py).
"""
