"""Diagnostics of offline RL as Lightning callbacks: one file, one callback."""
