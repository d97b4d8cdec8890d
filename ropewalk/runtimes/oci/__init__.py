"""The OCI runtime spec (config.json) of a container: values in, one value out.

Here: every rule that turns a CRI request, an image's config and facts about the node into the spec, by subject of
the runtime-spec, and the checks of a request (validate.py, sysctls.py). All of it is pure, except resolve.py.
Not here: writing the bundle and running it (drivers/), choosing names and paths (pods/).
"""
