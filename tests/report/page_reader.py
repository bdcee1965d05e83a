"""Reads a page as strictly as a test may."""

from html.parser import HTMLParser

VOID = {"meta", "wbr", "br", "hr", "link", "img"}


class PageReader(HTMLParser):
    """Elements with their attributes, texts, and every breach of the nesting of elements."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.breaches, self.open, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        self.breaches += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.breaches.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        """What a reader sees, with single spaces."""
        return " ".join("".join(self.texts).split())

    def all(self, tag):
        """Attributes of every element of a kind."""
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def sections(self):
        """Addresses of the sections, in order."""
        return [attrs["id"] for attrs in self.all("h2")]
