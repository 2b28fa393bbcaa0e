"""What a GPU does for Poorwill: on the device, beside its link, and in the engine."""
