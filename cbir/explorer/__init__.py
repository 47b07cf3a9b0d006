"""The explorer: one picture, what is found for it and why, in a browser."""
