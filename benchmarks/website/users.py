"""The users of the site: they have no passwords, since a link signs them in."""

from django.contrib.auth import get_user_model

#: Who is signed in at first.
FIRST = "alice"
NAMES = (FIRST, "bob", "admin")


def make_users():
    """Make the users that aren't there yet; return all of them by their names."""
    users = get_user_model().objects
    found = {}
    for name in NAMES:
        is_admin = name == "admin"
        found[name], is_new = users.get_or_create(
            username=name, defaults={"is_staff": is_admin, "is_superuser": is_admin}
        )
        if is_new:
            found[name].set_unusable_password()
            found[name].save()
    return found
