"""The bill of materials: package URLs as the specification writes them, and the same image gives the same bill."""

import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("cyclonedx", Path(__file__).parents[2] / "roles/images/filter_plugins/cyclonedx.py")
assert SPEC
assert SPEC.loader
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)

LINES = [
    "deb\tzlib1g\t1:1.3.dfsg+really1.3.1-1\tamd64",
    "python\tprometheus_client\t0.22.1",
    "pending\tzlib1g\t1\t2",
    "below\tzlib1g\t1\t2",
]


def test_packages_have_urls():
    urls = [component["purl"] for component in MODULE.cyclonedx(LINES, "app", "sha256:1")["components"]]
    assert urls == ["pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1?arch=amd64", "pkg:pypi/prometheus-client@0.22.1"]


def test_the_same_image_gives_the_same_bill():
    first = MODULE.cyclonedx(LINES, "app", "sha256:1")
    assert first == MODULE.cyclonedx(list(reversed(LINES)), "app", "sha256:1")
    assert first["serialNumber"] != MODULE.cyclonedx(LINES, "app", "sha256:2")["serialNumber"]
