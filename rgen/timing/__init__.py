"""How long it takes, and how far that is from what the machine can do."""
