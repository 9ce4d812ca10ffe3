"""A Django project that sends tracked messages to Dramatiq workers."""
