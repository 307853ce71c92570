"""What the diagnostics of training ask and how they judge: plain functions."""
