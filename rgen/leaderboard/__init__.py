"""Networks compared after equal minutes of training: what is compared, the runs, and the table."""
