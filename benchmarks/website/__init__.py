"""A site around the demo project: the page of tasks, the admin, and buttons that send messages."""
