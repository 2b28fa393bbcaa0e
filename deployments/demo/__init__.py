"""Puts a machine to sleep and wakes it, and makes a video, on this machine, with real parts."""
