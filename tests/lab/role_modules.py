"""A role's module as a program of the tests; it finds what it shares in the role's module_utils, as when Ansible has loaded the role."""

import importlib.util
from types import ModuleType

import ansible.module_utils
from runs import ROOT


def load(role: str, name: str) -> ModuleType:
    shared = str(ROOT / f"roles/{role}/module_utils")
    if shared not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(shared)
    spec = importlib.util.spec_from_file_location(name, ROOT / f"roles/{role}/library/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
