"""What servers, the command line and other processes know of the local kernels of one user.

It is kept in the runtime directory: a record per kernel, and a lock file per server. Nothing
here imports Jupyter, Tornado or traitlets.
"""
