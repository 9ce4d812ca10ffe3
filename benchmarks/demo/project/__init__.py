"""The demo's Django project: settings, and actors that end in every way."""
