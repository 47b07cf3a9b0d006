"""The notebooks as a program: runs, sweeps, queries and their reports."""
