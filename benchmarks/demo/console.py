"""The terminal that the demo prints to."""

from rich.console import Console

console = Console()
