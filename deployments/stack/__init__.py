"""The local stack: everything on this host, in the background, by one command."""
