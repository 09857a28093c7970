"""Shared test support: real servers, fakes, and ways to make them fail."""
