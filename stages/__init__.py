"""The steps a recipe is made of: readers, stages, filters and selectors, one file each.

Nothing here knows how it is run: `pairsift.pipeline` schedules, commits and counts.
"""
