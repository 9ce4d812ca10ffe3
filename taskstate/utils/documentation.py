"""References to the documentation, for the hints that developers read."""


def see(page: str) -> str:
    """Return the last sentence of a hint, which says where to read more.

    Parameters:
      page(str): The path of a page, usually with the anchor of a heading, such as
        "docs/troubleshooting.md#a-task-is-missing".
    """
    return f"See {page}."
