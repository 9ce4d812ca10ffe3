"""The writer: a background thread that writes pending tasks in batches."""
