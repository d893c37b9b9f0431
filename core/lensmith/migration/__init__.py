"""Training scripts and argument files of other projects as specs, with what of them could not be kept."""

from lensmith.migration.arguments import Arguments, read_arguments
from lensmith.migration.migrate import Migrated, migrate

__all__ = ["Arguments", "Migrated", "migrate", "read_arguments"]
