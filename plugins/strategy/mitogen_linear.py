"""Ansible's linear strategy over mitogen: the same order of tasks, one Python process per host instead of one per task.

Where mitogen is not installed this is Ansible's own linear strategy, slower and otherwise alike.
"""

DOCUMENTATION = """
name: mitogen_linear
short_description: Executes tasks in a linear fashion, over mitogen where it is installed
description: Ansible's linear strategy, run over mitogen's connections where mitogen is installed.
author: Holdfast
"""

from ansible.plugins.strategy.linear import StrategyModule as Linear

try:
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    StrategyModule = Linear
else:

    class StrategyModule(StrategyMixin, Linear):
        """Linear order, mitogen's transport."""
