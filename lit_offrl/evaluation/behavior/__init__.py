"""The policy that made the log: estimated, calibrated, scored, and what it never did."""
