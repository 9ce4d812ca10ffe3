"""A site with a schema per tenant, by django-tenants: models, settings, and a drill of them."""
