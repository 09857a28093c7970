"""Kernel providers, which start and stop kernels.

``base`` defines the interface. There is one implementation per kind of kernel.
"""
