"""A figure's SVG as it stands in a page: ids of its own, text in the page's colour, few elements, texts to hover over."""

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

SVG, LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
POINTS_PER_INCH = 72
FONTS = "DejaVu Sans, Verdana, sans-serif"
"""As wide as the font that matplotlib lays text out in."""


def inline_svg(
    svg: bytes, *, name: str, title: str, description: str, tips: Mapping[str, str], ink: str, page_width: float
) -> str:
    """Return matplotlib's SVG for a page, where it is as wide as its share of `page_width` inches: all type has one size.

    `tips` are texts to hover over, by the id of the group that they belong to; `ink` is the colour that becomes the page's.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)  # noqa: S314 (drawn by matplotlib, not read from anywhere)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in list(root.iter(f"{{{SVG}}}g")):
        if group.get("id") in tips:
            group.attrib |= {"class": "tip", "tip": tips[group.attrib.pop("id")]}
    _simplify(root)
    used = set(_list_references(root))
    for element in root.iter():
        _rename(element, name, used, ink)
        if tip := element.attrib.pop("tip", None):
            SubElement(element, f"{{{SVG}}}title").text = tip
    share = min(1.0, float(root.get("width", "").removesuffix("pt")) / POINTS_PER_INCH / page_width)
    root.attrib |= {"width": f"{share:.1%}", "role": "img", "aria-labelledby": f"{name}-title"}
    root.attrib |= {"aria-describedby": f"{name}-desc", "font-family": FONTS}
    root.attrib.pop("height")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = Element(f"{{{SVG}}}{tag}", id=f"{name}-{tag}")
        element.text = text
        root.insert(position, element)
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(parent: Element) -> None:
    """Put the children of a group without attributes in its place, and an only child with them; remove what is invisible."""
    for position, child in reversed(list(enumerate(parent))):
        _simplify(child)
        if child.get("style") == "fill: none":
            parent.remove(child)
        if child.tag != f"{{{SVG}}}g":
            continue
        attributes = {key: value for key, value in child.attrib.items() if key != "id"}
        if not attributes:
            parent[position : position + 1] = list(child)
        elif len(child) == 1 and not attributes.keys() & (child[0].attrib.keys() | _list_own(child[0])):
            child[0].attrib.update(attributes)
            parent[position] = child[0]


def _list_own(element: Element) -> set[str]:
    """Return the attributes that would mean something else on this element: the clip of what is moved moves with it."""
    return {"clip-path"} if "transform" in element.attrib or element.tag == f"{{{SVG}}}use" else set()


def _list_references(root: Element) -> Iterator[str]:
    """Yield the ids that something refers to."""
    for element in root.iter():
        for key, value in element.attrib.items():
            yield from re.findall(r"url\(#([^)]*)\)", value)
            if key == LINK and value.startswith("#"):
                yield value[1:]


def _rename(element: Element, name: str, used: set[str], ink: str) -> None:
    """Prefix the ids that are referred to by the figure's name, drop the others, and leave the ink's colour to the page."""
    if (identity := element.attrib.pop("id", None)) in used:
        element.set("id", f"{name}-{identity}")
    for key, value in element.attrib.items():
        renamed = f"#{name}-{value[1:]}" if key == LINK and value.startswith("#") else value
        renamed = re.sub(r"font-family:[^;]*; ?", "", renamed) if key == "style" else renamed
        element.set(key, renamed.replace("url(#", f"url(#{name}-").replace(ink, "currentColor"))
