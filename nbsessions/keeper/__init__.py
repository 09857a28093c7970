"""The keeper: a process beside the kernels that keeps what they say while nobody listens.

It runs without a server. Nothing in this package imports Jupyter, Tornado or traitlets.
"""
