"""Kernels of a Kernel Gateway or Enterprise Gateway, which every server can serve."""
