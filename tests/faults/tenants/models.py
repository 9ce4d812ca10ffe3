"""The tenants of the site, and the hosts that they are asked at."""

from django_tenants.models import DomainMixin, TenantMixin


class Place(TenantMixin):
    """A tenant."""

    auto_create_schema = True


class Host(DomainMixin):
    """Where a tenant is asked."""
