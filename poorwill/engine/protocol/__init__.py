"""What the control side and an engine say to each other: docs/engine-protocol.md, as records for both ends."""
