"""A griffe extension: examples in docstrings (`>>>`) become code blocks."""

from typing import Any

from griffe import Extension, Object


def fence_examples(text: str) -> str:
    """Put each run of lines that begins with `>>>` between code fences; a blank line ends it.

    >>> fence_examples("Add.\\n\\n>>> 1 + 1\\n2").count("```")
    2
    """
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if not inside and line.startswith(">>>"):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines[:-1])


class FenceExamples(Extension):
    """Fence the examples of every object's docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring in place."""
        if obj.docstring:
            obj.docstring.value = fence_examples(obj.docstring.value)
