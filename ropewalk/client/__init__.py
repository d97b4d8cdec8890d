"""Client: typed calls to a CRI endpoint (ours or another runtime's) and to ropewalk.v1.Admin; container logs.

Here: plain values out, plain values in; RopewalkError with the kind of the endpoint's status code.
Not here: tables and progress bars (cli/).
"""
