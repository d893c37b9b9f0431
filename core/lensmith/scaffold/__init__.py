"""Start a package that adds one part: `lensmith plugin new`. No torch here.

`templates/` holds one working part of each kind under the name `example_part`, and what every package has besides.
Writing a package is copying these files under the new name, so the templates are linted and type-checked as they are.
"""

from __future__ import annotations

from lensmith.scaffold.names import PackageNames, package_names
from lensmith.scaffold.write import kinds, new_package, written_files

__all__ = ["PackageNames", "kinds", "new_package", "package_names", "written_files"]
