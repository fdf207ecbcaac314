"""Ansible's linear strategy over mitogen: the same order of tasks, one Python process per host instead of one per task.

Where mitogen is not installed this is Ansible's own linear strategy, slower and otherwise alike.
"""

DOCUMENTATION = """
name: mitogen_linear
short_description: Executes tasks in a linear fashion, over mitogen where it is installed
description: Ansible's linear strategy, run over mitogen's connections where mitogen is installed.
author: Holdfast
"""

import gc

from ansible.plugins.strategy.linear import StrategyModule as Linear

try:
    from ansible_mitogen import affinity
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    StrategyModule = Linear
else:
    # Mitogen pins its processes to cores; with two cores that puts Ansible, its workers and SSH all on the second.
    affinity.policy = affinity.Policy()

    class StrategyModule(StrategyMixin, Linear):
        """Linear order, mitogen's transport."""

        def run(self, *args, **kwargs):
            """Runs a play. Every task forks: what is in memory by now is kept out of the children's garbage collection."""
            gc.collect()
            gc.freeze()
            return super().run(*args, **kwargs)
