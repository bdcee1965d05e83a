"""Analyses of a forward: channels, and bounds or variances of data."""
