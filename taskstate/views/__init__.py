"""The views of ``taskstate.urls``: the page, its JSON, and its server-sent events.

It imports none of its modules.  ``runserver`` imports the URLs and the template tags in two threads
at once; each of them would wait for the other one's import, and one of them would fail.
"""
