"""The demo, and benchmarks that compare this package with other ways to track messages."""
