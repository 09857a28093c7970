"""How the kernel provider of a gateway is named, which is also the scope of its sessions."""

from __future__ import annotations

_KIND = "gateway:"


def provider_name(url: str) -> str:
    """Return the name of the provider for the gateway at this URL."""
    return f"{_KIND}{url}"


def url_of(provider: str) -> str | None:
    """Return the URL of the provider's gateway, or None if the provider is another one."""
    return provider.removeprefix(_KIND) if provider.startswith(_KIND) else None
