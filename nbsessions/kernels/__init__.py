"""Who starts and stops kernels: the port in ``base``, and one adapter per kind of kernel."""
