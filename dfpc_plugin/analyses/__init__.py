"""What is followed through a forward: channels, and bounds or variances of data."""
