"""Hostile data, secrets and permissions: what SECURITY.md claims."""
