"""What the checks and tests need: environments, packages of npm, and programs.

Uses nothing but the standard library, because it runs before anything is installed.
"""
