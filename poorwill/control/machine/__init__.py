"""Machines: created, watched and destroyed, so that none bills unnoticed."""
