"""Machines behind SSH and stores behind a network: what the way there costs."""
