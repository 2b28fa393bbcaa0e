"""Pictures and films: images fetched from users, models that make films of them, files that hold them."""
