"""Addresses in, folders out."""
