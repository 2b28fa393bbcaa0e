"""What the engine tells about its machine, and a command that it runs there."""
