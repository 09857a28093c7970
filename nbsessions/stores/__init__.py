"""Session stores: the interface in ``base``, and one implementation per backend."""
