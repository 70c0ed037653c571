"""Several outputs from one config: the rows that all of it keeps are dealt out by rules, each into a folder of its own.

Each output is a cut of the same work folder with one more filter at the end, so what is computed is computed once, by the
first of them, and `check`, `why` and the rest know nothing of this.
"""

from pairsift.pipeline.config import Config, build_entry
from pairsift.stages.base import Filter

RULE = "output "  # how the filter is called in fates, before the output's name


def configs_of(config: Config) -> list[Config]:
    """One config for each of `outputs`, in order; the config itself where it names none. A row may fit several, or none."""
    if not config.outputs:
        return [config]
    return [_one(config, name, keep) for name, keep in config.outputs]


def _one(config: Config, name: str, keep: str) -> Config:
    stages = (*config.stages, _rule(name, keep))
    return config.model_copy(update={"output": f"{config.output}/{name}", "stages": stages, "outputs": ()})


def _rule(name: str, keep: str) -> Filter:
    rule = build_entry({"use": "filter.where", "keep": keep, "name": f"{RULE}{name}"}, f"outputs.{name}", (Filter,))
    assert isinstance(rule, Filter)
    return rule
