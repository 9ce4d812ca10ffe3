"""The loggers: one per module, so that each can be turned up or down by its name."""

import importlib
import logging
import pkgutil

import taskstate


def test_each_module_logs_by_its_own_name():
    """Below ``taskstate``, which stands for all of them."""
    names = [
        module.name
        for module in pkgutil.walk_packages(taskstate.__path__, "taskstate.")
        if ".migrations." not in module.name
    ]
    loggers = {
        name: value.name
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, logging.Logger)
    }

    assert "taskstate.writer.flusher" in loggers
    assert loggers == {name: name for name in loggers}
