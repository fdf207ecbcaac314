"""The filter `cyclonedx`: an image's packages as a CycloneDX 1.6 bill of materials (https://cyclonedx.org/docs/1.6/json/)."""

import uuid
from urllib.parse import quote


def _component(kind: str, name: str, version: str, architecture: str = "") -> dict[str, str]:
    """A package as a CycloneDX component, named by its package URL (https://github.com/package-url/purl-spec)."""
    where = f"deb/debian/{name}" if kind == "deb" else f"pypi/{name.lower().replace('_', '-')}"
    purl = f"pkg:{where}@{quote(version, safe='.-_~')}" + (f"?arch={architecture}" if architecture else "")
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def cyclonedx(lines: list[str], name: str, image_id: str) -> dict[str, object]:
    """Bill of materials of the image `name`. `lines`: what files/inspect.sh prints. The same image gives the same bill."""
    packages = [line.split("\t") for line in lines if line.startswith(("deb\t", "python\t"))]
    image = {"type": "container", "bom-ref": f"{name}@{image_id}", "name": f"holdfast/{name}", "version": image_id}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, image_id)}",
        "version": 1,
        "metadata": {"component": image},
        "components": sorted((_component(*package) for package in packages), key=lambda component: component["purl"]),
    }


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self) -> dict[str, object]:
        return {"cyclonedx": cyclonedx}
