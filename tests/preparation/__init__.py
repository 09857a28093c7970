"""What the checks and tests need: environments and programs.

Uses nothing but the standard library, because it runs before anything is installed.
"""
