"""Parts on their way: to and from a store, and their chunks back to raw bytes."""
