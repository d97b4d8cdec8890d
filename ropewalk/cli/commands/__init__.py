"""Commands: one file per verb; its first docstring line is its help, its `command` a click command.

Here: arguments, calls, what is printed.
Not here: typed calls (client/).
"""
