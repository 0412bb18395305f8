"""An extension of griffe: parameters that share a line of a docstring share a row.

`scales, flip: see Segmenter.` is one item of a docstring here, also where the names
take two lines. Griffe takes what follows the first space for a type; the spaces go.
"""

import re

import griffe

_NAME = r"\*{0,2}\w+"
_GROUP = re.compile(rf"^( +)({_NAME}(?:,\s+{_NAME})+)(?=:\s)", re.M)


class GroupedNames(griffe.Extension):
    """Joins the names of a group: `scales,flip: see Segmenter.`"""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = _GROUP.sub(
                lambda group: group[1] + re.sub(r"\s+", "", group[2]),
                obj.docstring.value,
            )
