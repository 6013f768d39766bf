"""Constraints of a table as its devices hold them. Pure.

``constraints`` takes a description and says which conditions a device's writes have to meet, as SQLite expressions, and
which columns are written together.
"""

from syncline.actors.postgres.checks.constraints import checks as checks
from syncline.actors.postgres.checks.constraints import registers as registers
