"""Off-policy estimators: plain functions and small classes over logged episodes."""
