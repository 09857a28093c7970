"""Where sessions are kept: the port in ``base``, and one adapter per backend."""
