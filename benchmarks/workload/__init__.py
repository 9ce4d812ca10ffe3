"""The Django project that a contender's process runs, and the jobs that are measured in it."""
