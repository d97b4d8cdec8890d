"""The project's own tools: `./dev VERB` runs tools/VERB.py.

Here: set-up, checks, test images and registries, private nodes, the demonstration.
Not here: anything the product needs.
"""
