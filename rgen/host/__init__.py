"""What a program needs of its machine: files, progress, signals, plots. Nothing of sequences or networks."""
