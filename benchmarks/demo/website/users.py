"""The users of the website.  They have no passwords: a link signs them in."""

from django.contrib.auth import get_user_model

#: The user who is signed in first.
FIRST = "alice"
NAMES = (FIRST, "bob", "admin")


def make_users():
    """Create the users that do not exist yet; return all users by name."""
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
