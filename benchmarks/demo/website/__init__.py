"""The demo's website: buttons that send messages, the task page, and the admin."""
