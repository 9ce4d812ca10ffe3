"""The settings that are made of a URL."""

import sys
from types import ModuleType

import pytest

from benchmarks import services


@pytest.mark.parametrize(
    ("driver", "host", "expected"),
    [
        ("pymysql", "127.0.0.1", True),
        ("pymysql", "localhost", True),
        ("pymysql", "db.example.com", False),
        ("MySQLdb", "127.0.0.1", False),
    ],
)
def test_tls_is_disabled_for_a_server_on_this_machine_alone(driver, host, expected, monkeypatch):
    """With the option of PyMySQL, which mysqlclient does not have."""
    monkeypatch.setitem(sys.modules, "MySQLdb", ModuleType(driver))
    options = services.database(f"mysql://root@{host}:3306/tasks")["OPTIONS"]

    assert options.get("ssl_disabled", False) is expected
