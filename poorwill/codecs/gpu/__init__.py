"""Codecs that run on NVIDIA GPUs by CuPy and nvCOMP."""
