"""Machines rented on vast.ai's market."""
