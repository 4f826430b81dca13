"""The students' edition (`make teach`): what nbgrader leaves, the solutions in the prose, goes too.

nbgrader clears code between `### BEGIN SOLUTION` and `### END SOLUTION`, hidden tests, and outputs.
"""

import re

from nbconvert.preprocessors import Preprocessor

__all__ = ["StripSolutions"]

FOLDED = re.compile(r"\n*<details>.*?</details>", re.S)  # every one in the notebooks is a solution


class StripSolutions(Preprocessor):
    """Takes the folded solutions out of Markdown cells."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "markdown":
            cell.source = FOLDED.sub("", cell.source)
        return cell, resources
