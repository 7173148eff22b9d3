"""A run's annotations in the formats of other tools: a file for each format, what they share, and the registry."""
