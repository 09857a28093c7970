"""Makes ``python -m nbsessions.cli`` the same as ``jupyter nbsessions``."""

from nbsessions.cli.application import main

if __name__ == "__main__":
    main()
