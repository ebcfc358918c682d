"""The figures of the page, as matplotlib figures."""
