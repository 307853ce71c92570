"""From the log to the environment: collecting, fine-tuning and the deployment monitor."""
