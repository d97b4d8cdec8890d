"""The `ropewalk` command.

Here: the command group, exit codes; one file per verb in commands/, loaded when it is called.
Not here: how to speak to a daemon (client/), the daemon itself (daemon/).
"""
