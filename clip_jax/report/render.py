"""Pages from the templates in clip_jax/assets."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, content: Mapping[str, Any]) -> str:
    """HTML of a template by its file name; texts are escaped, and a name that content lacks is an error."""
    loader = PackageLoader("clip_jax", "assets")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.get_template(template).render(content)
