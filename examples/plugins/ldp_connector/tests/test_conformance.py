"""Every promise of the interface, tested on the part at its smallest."""

from lensmith.testing import conformance_suite

TestConformance = conformance_suite("lensmith-ldp")
