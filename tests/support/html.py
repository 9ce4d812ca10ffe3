"""HTML as a browser reads it."""

import html.parser

VOID = {"link", "meta", "input"}


class Page(html.parser.HTMLParser):
    """The elements of a page, each (tag, attributes, text inside)."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def find(self, tag, **wanted):
        """Return (attributes, text) of the elements of a tag that have these attributes."""
        wanted = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [
            (attributes, text.strip())
            for name, attributes, text in self.elements
            if name == tag and wanted.items() <= attributes.items()
        ]

    def offences(self):
        """Return what ``Content-Security-Policy: default-src 'self'`` forbids."""
        return [
            (tag, name, value)
            for tag, attributes, text in self.elements
            for name, value in [*attributes.items(), ("", text if tag == "script" else "")]
            if tag == "style"
            or name == "style"
            or name.startswith("on")
            or (tag == "script" and name == "" and value.strip())
            or (tag == "script" and "src" not in attributes)
            or (value or "").startswith(("javascript:", "data:", "http:", "https:", "//"))
        ]
