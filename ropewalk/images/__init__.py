"""Images: from a name to layers on disk and a record that says what they are.

Here: references, OCI documents, the image store, the puller, and the worker processes that fetch and unpack.
Not here: where bytes are kept (storage/), what a container makes of an image's config (runtimes/oci/).
"""
