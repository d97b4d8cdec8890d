"""Handlers: one file per runtime that RuntimeClass can name; the name is the file's.

Here: configuration, capabilities and probe of each.
Not here: how a control interface is spoken (drivers/).
"""
