"""The benchmarks: ``python -m benchmarks --help`` tells how to run them.

Each benchmark is a module with a function ``measure(rounds, folder)``, which yields measurements,
and a constant ``ROUNDS``, the number of rounds unless another one is asked for.
"""
