"""What runs on the machine: scan, pack, restore, verify, and the protocol by which it is told to."""
