"""The checks of ``jupyter nbsessions doctor``, one module per subject."""
