"""A Django project whose only task is to be measured; each contender runs it in its own process."""
