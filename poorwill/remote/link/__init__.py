"""A channel to an engine that survives cut connections, and the keeper that holds its other end on the machine."""
