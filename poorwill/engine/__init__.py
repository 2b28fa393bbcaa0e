"""What runs on the machine: scan, pack, restore and verify, and the protocol by which they are asked for."""
