"""Tasks in Django's admin.

Django imports this package if ``django.contrib.admin`` is installed; importing it registers
``TaskAdmin``.
"""

from taskstate.admin.task import TaskAdmin

__all__ = ["TaskAdmin"]
