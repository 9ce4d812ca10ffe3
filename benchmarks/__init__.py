"""The real thing on real input: a Django project, and what is run on it."""
