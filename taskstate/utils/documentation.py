"""The documentation, where hints for developers name it."""


def see(page: str) -> str:
    """Return the sentence that ends a hint: where to read more.

    Parameters:
      page(str): A page, and its heading, such as "docs/troubleshooting.md#a-task-is-missing".
    """
    return f"See {page}."
