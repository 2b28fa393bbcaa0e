"""The engine brought to a machine: what is there, what is sent, and what installs it."""
