"""The registry of a user's local kernels, shared by servers, the command line and others.

It consists of files in the runtime directory: one record per kernel and one lock file per server.
Nothing in this package imports Jupyter, Tornado or traitlets.
"""
