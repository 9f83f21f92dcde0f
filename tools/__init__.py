"""Shipped tools."""
