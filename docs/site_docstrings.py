"""How docstrings are read for the reference: roles and examples as griffe understands them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):(?=`)")


class Readable(Extension):
    """Names without their roles; doctests under "Example:" as code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the text of a docstring before it is parsed."""
        if obj.docstring is not None:
            text = ROLE.sub("", obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
